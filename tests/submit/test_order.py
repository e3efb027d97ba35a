"""What is refused here, before anything is uploaded, and how the rest is told to the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.cli import VERBS
from raypipe.errors import RequestError
from raypipe.submit.order import WITH_SETTINGS, _from_home, order, refuse_missing
from raypipe.submit.upload import Upload
from tests.support import ROOT

DATASET = "name: d\ndata_root: {root}\nannotations: [a.json]\nout: {out}\n"
STAGE = "name: s\nout: /shared/s\nstart: {{model: {model}}}\nmixture: [{{data: {data}}}]\n"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    root = tmp_path.resolve() / "mine"
    root.mkdir()
    monkeypatch.chdir(root)
    (root / "d.yaml").write_text(DATASET.format(root="/shared/data", out="/shared/prepared/d"))
    return root


def asked(root: Path, verb: str, *words: str, settings: tuple[str, ...] = ()):
    return order(verb, list(words), list(settings), list(VERBS), root)


def refusal(root: Path, verb: str, *words: str, settings: tuple[str, ...] = ()) -> str:
    with pytest.raises(RequestError) as refused:
        asked(root, verb, *words, settings=settings)
    return refused.value.render()


def test_the_arguments_are_the_verbs_own(here):
    made = asked(here, "prepare", str(here / "d.yaml"), settings=("error_budget=0.02",))
    assert made.arguments == ("d.yaml", "error_budget=0.02")
    assert made.out == "/shared/prepared/d"
    assert made.entrypoint(here, "python") == "python -m raypipe.cli prepare d.yaml error_budget=0.02"
    assert made.command == "raypipe submit prepare d.yaml error_budget=0.02"


def test_the_scripts_of_jobs_are_used_in_raypipes_own_folder(monkeypatch):
    monkeypatch.chdir(ROOT)
    made = asked(ROOT, "prepare", "datasets/valley.yaml")
    assert made.entrypoint(ROOT, "python3") == "python3 jobs/prepare.py datasets/valley.yaml"
    stage = asked(ROOT, "finetune_lora", settings=("seed=1",))
    assert stage.entrypoint(ROOT, "python") == "python jobs/train.py jobs/finetune_lora.yaml seed=1"
    # jobs/evaluate.py takes the yaml beside it where none is named, the verb takes none
    bare = asked(ROOT, "evaluate", settings=("model=/m", "eval_root=/e", "out=/shared/o"))
    assert bare.entrypoint(ROOT, "python").startswith("python -m raypipe.cli evaluate model=/m")


def test_what_is_written_to_a_shell_is_quoted(here):
    made = asked(here, "ask", "/clips/a b.mp4", "what's this; rm -rf /?", settings=("model=/m",))
    assert made.entrypoint(here, "python").endswith(
        """'/clips/a b.mp4' 'what'"'"'s this; rm -rf /?' model=/m"""
    )


def test_one_run_folder_one_name(here):
    one, same = (asked(here, "prepare", "d.yaml", settings=s) for s in ((), ("error_budget=0.5", "name=e")))
    other = asked(here, "prepare", "d.yaml", settings=("out=/shared/prepared/e",))
    assert one.name() == same.name() != other.name()
    assert asked(here, "verify", "/a").name() != asked(here, "verify", "/b").name()
    long = asked(here, "prepare", "d.yaml", settings=("out=s3://b/" + "x/" * 80 + "a name; $(of) mine",))
    assert len(long.name()) < 64
    assert long.name().replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("prepair", "d.yaml"), "did you mean 'prepare'?"),
        (("finetun",), "did you mean 'finetune'?"),
        (("submit", "prepare"), "is about this machine"),
        (("prepare",), "no yaml file is named"),
        (("prepare", "e.yaml"), "did you mean 'd.yaml'?"),
        (("prepare", "d.yaml", "sampling"), "neither a yaml file nor"),
        (("prepare", "../d.yaml"), "lies outside"),
        (("verify",), "of which run?"),
        (("verify", "runs/a"), "RUN 'runs/a' is relative"),
        (("compare", "/shared/a", "runs/b"), "RUN 'runs/b' is relative"),
        (("demo",), "out=PATH"),
    ],
)
def test_words_that_are_wrong(here, argv, said):
    assert said in refusal(here, *argv)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("smapling.frames=4", "did you mean 'sampling'?"),
        ("sampling.frames=-1", "sampling.frames"),
        ("out=runs/d", "out 'runs/d' is relative"),
        ("key=sk-1", "process lists"),
        ("judge.api_key=sk-1", "process lists"),
        ("token=abc", "RAY_AUTH_TOKEN_PATH"),
        ("out=s3://AKIAABCDEFGHIJKLMNOP:sk-1@b/x", "process lists"),
    ],
)
def test_settings_that_are_wrong(here, setting, said):
    text = refusal(here, "prepare", "d.yaml", settings=(setting,))
    assert said in text
    assert "sk-1" not in text


def test_a_judges_settings_are_checked_too(here):
    assert "did you mean 'concurrency'?" in refusal(here, "judge", "/run", settings=("concurency=3",))
    asked(here, "judge", "/run", settings=("judge.concurrency=3", "drift=50", "coverage_floor=0.9"))


def test_a_judges_model_is_a_name_and_its_key_a_path(here):
    asking = asked(here, "judge", "/run", settings=("model=gpt-3.5-turbo", "key_file=/keys/judge"))
    assert asking.paths == (("judge.key_file", "/keys/judge"),)
    relative = asked(here, "judge", "/run", settings=("key_file=judge.key",))
    assert "judge.key_file=judge.key" in missing(here, relative)


def missing(root: Path, made) -> str:
    sizes = {str(f.relative_to(root)): 1 for f in root.rglob("*") if f.suffix in (".yaml", ".json")}
    try:
        refuse_missing(made, Upload(root, sizes))
    except RequestError as fault:
        return fault.render()
    return ""


def test_relative_paths_are_of_the_upload(here):
    (here / "model").mkdir()
    (here / "model/a.safetensors").write_text("x")
    (here / "small").mkdir()
    (here / "small/a.json").write_text("[]")
    (here / "s.yaml").write_text(STAGE.format(model="model", data="/shared/p"))
    assert "start.model=model is looked up in the uploaded folder, and model stays here" in missing(
        here, asked(here, "train", "s.yaml")
    )
    (here / "s.yaml").write_text(STAGE.format(model="/shared/m", data="d.yaml"))
    assert missing(here, asked(here, "train", "s.yaml")) == ""
    (here / "d.yaml").write_text(DATASET.format(root="data", out="/shared/d"))
    assert "data_root=data" in missing(here, asked(here, "train", "s.yaml"))  # the dataset's own paths count
    assert "and data is not here" in missing(here, asked(here, "prepare", "d.yaml"))
    assert missing(here, asked(here, "prepare", "d.yaml", settings=("data_root=small",))) == ""
    for fine in ("~/data", "s3://bucket/data", "/shared/data"):
        assert missing(here, asked(here, "prepare", "d.yaml", settings=(f"data_root={fine}",))) == ""
    served = ("model=gpt", "engine=served", "served.base_url=http://h/v1", "eval_root=/e", "out=/o")
    assert missing(here, asked(here, "evaluate", settings=served)) == ""
    key = ("model=/m", "eval_root=/e", "out=/o", "judge.key_file=judge.key")
    assert "judge.key_file=judge.key" in missing(here, asked(here, "evaluate", settings=key))


def test_submits_own_options_are_no_settings():
    """What submit takes for itself would not reach the verb."""
    mine = {"address", "python", "retries", "detach", "no_wait"}
    for kind in WITH_SETTINGS.values():
        assert not mine & set(kind.model_fields)


def test_every_verb_has_a_script():
    scripts = {file.stem for file in (ROOT / "jobs").glob("*.py")}
    assert set(VERBS) - {"submit", "cluster", "chaos", "benchmarks", "status", "logs"} <= scripts
    for file in (ROOT / "jobs").glob("*.py"):
        assert len(file.read_text().splitlines()) <= 30
        assert "raise SystemExit(" in file.read_text()


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("/home/me/runs/a", "~/runs/a"),
        ("out=/home/me/runs/a", "out=~/runs/a"),
        ("prepared=[/home/me/a, /home/me/b]", "prepared=[~/a, ~/b]"),
        ("out=/home/meadow/a", "out=/home/meadow/a"),
        ("out=/mnt/home/me/a", "out=/mnt/home/me/a"),
        ("out=s3://bucket/home/me/a", "out=s3://bucket/home/me/a"),
    ],
)
def test_what_the_shell_made_of_a_tilde_is_the_clusters_home_again(typed, sent, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert _from_home(typed) == sent


def nobody(monkeypatch):
    """A user of a container whom its /etc/passwd does not know."""
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("home", ["/", "//", None])
@pytest.mark.parametrize("typed", ["out=s3://b/x", "/", "model=/m", "https://h/v1"])
def test_a_user_without_a_home_of_their_own_means_what_is_typed(typed, home, monkeypatch):
    nobody(monkeypatch)
    if home:
        monkeypatch.setenv("HOME", home)
    assert _from_home(typed) == typed


def test_a_run_below_home_is_one_of_the_cluster(here, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert asked(here, "verify", "/home/me/runs/a").arguments == ("~/runs/a",)
    assert asked(here, "prepare", "d.yaml", settings=("out=/home/me/p",)).out == "~/p"
