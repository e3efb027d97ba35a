"""Settings: closed, frozen, and with an identity that says what a run makes."""

import hypothesis
import pydantic
import pytest
from hypothesis import strategies as st

from raypipe import cli
from raypipe.errors import MAX_LINES, RaypipeError, RequestError, nearest
from raypipe.settings import DatasetSettings, EvaluateSettings, StageSettings, Start, identity, load, local
from raypipe.settings.base import build
from raypipe.settings.faults import names_of
from raypipe.store.files import Store
from raypipe.store.node import node_folder

BASE = {"name": "d", "data_root": "r", "annotations": ["a"], "out": "o"}


def made(**more) -> DatasetSettings:
    return DatasetSettings(**{**BASE, **more})


def test_identity_is_what_is_made_not_how():
    same = [made(), made(out="p"), made(error_budget=0.5), made(concurrency=3), made(limits={"tries": 1})]
    assert len({identity(s) for s in same}) == 1
    other = [
        made(name="e"),
        made(sampling={"frames": 4}),
        made(rendition={"quality": 90}),
        made(annotations=["b"]),
    ]
    assert len({identity(s) for s in [made(), *other]}) == 5


def test_identity_survives_the_way_through_json():
    stage = {
        "name": "s",
        "out": "o",
        "start": {"random": "tiny"},
        "mixture": [{"data": "d"}],
        "lora": {"r": 2},
    }
    for kind, values in ((DatasetSettings, BASE), (StageSettings, stage)):
        settings = kind.model_validate(values)
        again = kind.model_validate_json(settings.model_dump_json())
        assert identity(again) == identity(settings)


def test_settings_are_frozen():
    with pytest.raises(pydantic.ValidationError):
        made().name = "x"


def test_overrides_reach_into_groups(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "name: d\ndata_root: r\nannotations: [a]\nout: o\nsampling: {frames: 4}\n"
    )
    overrides = ["sampling.policy=midpoint", "rendition.quality=80", "error_budget=1e-2", "concurrency=null"]
    settings = load(DatasetSettings, tmp_path / "a.yaml", overrides)
    assert (settings.sampling.frames, settings.sampling.policy) == (4, "midpoint")
    assert (settings.rendition.quality, settings.error_budget, settings.concurrency) == (80, 0.01, None)
    with pytest.raises(RequestError, match="'name' is not a setting"):
        load(DatasetSettings, None, ["name"])


def test_a_group_that_is_null_in_the_yaml_can_be_filled(tmp_path):
    (tmp_path / "a.yaml").write_text("model: m\neval_root: e\nout: o\njudge: null\n")
    settings = load(EvaluateSettings, tmp_path / "a.yaml", ["judge.base_url=http://127.0.0.1:1/v1"])
    assert settings.judge is not None
    assert settings.judge.base_url == "http://127.0.0.1:1/v1"


def test_benchmarks_on_the_command_line():
    base = ["model=m", "eval_root=e", "out=o"]
    assert load(EvaluateSettings, None, base).benchmarks == "all"
    assert load(EvaluateSettings, None, [*base, "benchmarks=a, b"]).benchmarks == ["a", "b"]
    assert load(EvaluateSettings, None, [*base, "benchmarks=[a]"]).benchmarks == ["a"]


@pytest.mark.parametrize("values", [{}, {"model": "m", "random": "tiny"}])
def test_a_stage_starts_from_one_thing(values):
    with pytest.raises(pydantic.ValidationError, match="exactly one"):
        Start(**values)


def test_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/x")
    assert local("a") == str(tmp_path / "a")
    assert local("~/a") == "/home/x/a"
    assert local("s3://bucket/a") == "s3://bucket/a"


def test_errors_are_short_and_name_the_nearest():
    fault = RaypipeError("\n".join("abcdefghijk"), "try this")
    assert len(fault.render().splitlines()) == MAX_LINES
    assert nearest("smapling", ["sampling", "name"]) == "did you mean 'sampling'? valid: name, sampling"
    assert nearest("zzz", ["a"]) == "valid: a"


@pytest.mark.parametrize(
    ("given", "said"), [("error_budget=on", "error_budget=0.01"), ("limit=yes", "limit=N")]
)
def test_yes_is_no_number(given, said):
    with pytest.raises(RequestError, match="takes a number") as refused:
        load(DatasetSettings, "datasets/valley.yaml", [given])
    assert refused.value.remedy.endswith(said)


NAMES = st.text(max_size=12) | st.sampled_from(["(a", "a[b]", "[key]", "literal x", "literal['x']", "", "."])


BRACES = st.sampled_from(["{a}", "{", "}", "{}", "{0}", "{place}", "a{b.c}", "{place.x}"])
STAGE = {"name": "s", "out": "o", "start": {"random": "tiny"}, "mixture": [{"data": "d"}]}
EVALUATION = {"model": "m", "eval_root": "e", "out": "o"}


@hypothesis.given(
    name=BRACES,
    where=st.sampled_from(["splits", "rates"]),
    value=st.sampled_from([[], {}, None, "x", 1, True]),
)
def test_a_wrong_value_is_explained_whatever_the_name_it_has(name, where, value):
    """What the writer called it is no template of ours."""
    hypothesis.assume(not isinstance(value, {"splits": str, "rates": int}[where]))
    kind, base = {"splits": (EvaluateSettings, EVALUATION), "rates": (StageSettings, STAGE)}[where]
    with pytest.raises(RequestError, match="must be") as caught:
        build(kind, {**base, where: {name: value}}, "a.yaml")
    assert f"setting '{where}.{name}'" in caught.value.message
    assert f"{where}.{name}" in caught.value.remedy


@hypothesis.given(name=NAMES, group=st.sampled_from(["", "sampling", "limits", "drawn"]))
def test_an_unknown_name_is_named_whatever_is_in_it(name, group):
    """A key with a bracket in it looks like pydantic's own name for one of a union's choices."""
    hypothesis.assume(f"{group}.{name}".lstrip(".") not in names_of(DatasetSettings))
    values = {group: {name: 1}} if group else {name: 1}
    with pytest.raises(RequestError) as caught:
        build(DatasetSettings, {**BASE, **values}, "a.yaml")
    assert f"unknown setting '{f'{group}.{name}' if group else name}'" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    "argv",
    [
        ("prepare", "~nobody-at-all/d.yaml"),
        ("plan", "~nobody-at-all/d.yaml"),
        ("submit", "prepare", "~nobody-at-all/d.yaml"),
        ("chaos", "--seed", "1", "~nobody-at-all/d.yaml"),
        ("cluster", "check", "~nobody-at-all/c.yaml"),
        ("doctor", "--eval-root", "~nobody-at-all/eval"),
        ("verify", "~nobody-at-all/run"),
    ],
)
def test_a_tilde_of_nobody_is_named(argv, capsys):
    assert cli.main(list(argv)) == 2
    assert f"{argv[-1]}: no home folder is known" in capsys.readouterr().err


def test_nothing_is_written_into_a_folder_called_tilde(tmp_path, monkeypatch):
    def unnamed(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", unnamed)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("RAYPIPE_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    for asked in (lambda: local("~/runs/a"), lambda: Store("~/runs"), lambda: node_folder("models")):
        with pytest.raises(RequestError, match="no home folder is known"):
            asked()
    assert local("./~/a") == str(tmp_path / "~/a")
    assert list(tmp_path.iterdir()) == []
