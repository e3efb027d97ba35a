"""A search without Ray: what is tried, what is refused, and how its trials are ranked, printed and drawn."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from raypipe.errors import RequestError
from raypipe.report.search_plot import search_svg
from raypipe.settings import StageSettings, TuneSettings, identity, load
from raypipe.settings.tune import stage_of, with_values
from raypipe.store.files import Store
from raypipe.train import scored
from raypipe.train.space import trials_of
from raypipe.train.trials import outcome_of, overrides_of, ranked, table, winner_of

STAGE = {"name": "s", "out": "x", "start": {"random": "tiny"}, "mixture": [{"data": "d"}]}


def search(out: str = "runs/search", **more) -> TuneSettings:
    values = {
        "name": "search",
        "out": out,
        "stage": {**STAGE, "validation": {"fraction": 0.1}},
        "space": {"rates.language_model": {"loguniform": [1e-5, 1e-2]}, "start.seed": {"grid": [1, 2]}},
        "trials": 4,
    }
    return TuneSettings.model_validate({**values, **more})


def drawn(settings: TuneSettings) -> list[dict]:
    return [trial.values for trial in trials_of(settings, stage_of(settings))]


def test_grids_are_gone_through_and_the_rest_is_drawn():
    first = drawn(search())
    assert [values["start.seed"] for values in first] == [1, 2, 1, 2]
    rates = [values["rates.language_model"] for values in first]
    assert len(set(rates)) == 4
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert drawn(search()) == first
    assert drawn(search(trials=6))[:4] == first
    assert drawn(search(seed=1)) != first


def test_a_loguniform_axis_is_even_over_its_decades():
    settings = search(trials=300, space={"rates.language_model": {"loguniform": [1e-6, 1e-2]}})
    below = sum(values["rates.language_model"] < 1e-4 for values in drawn(settings))
    assert 120 < below < 180


def test_whole_numbers_come_from_between_both_ends():
    settings = search(trials=60, space={"lora.r": {"randint": [2, 5]}})
    assert {values["lora.r"] for values in drawn(settings)} <= {2, 3, 4, 5}


def test_equal_trials_are_one():
    settings = search(trials=30, space={"lora.r": {"choice": [4, 8]}})
    assert sorted(values["lora.r"] for values in drawn(settings)) == [4, 8]


def test_a_trial_is_named_by_the_content_of_its_settings():
    settings = search(space={"start.seed": {"grid": [1, 2]}}, trials=None)
    one, two = trials_of(settings, stage_of(settings))
    assert one.id != two.id
    assert one.stage.out == f"runs/search/trials/{one.id}"
    assert (one.stage.start.seed, one.stage.validation.wait, one.stage.checkpoint.asynchronous) == (
        1,
        True,
        False,
    )
    other = search(space={"start.seed": {"grid": [1, 3]}}, trials=None, out="elsewhere")
    assert trials_of(other, stage_of(other))[0].id == one.id
    longer = search(space={"start.seed": {"grid": [1, 2]}}, trials=None, set={"steps": 7})
    assert trials_of(longer, stage_of(longer))[0].id != one.id


def test_set_holds_for_all_trials_and_may_be_nested():
    settings = search(set={"workers": {"num": 2}, "rates.multi_modal_projector": 1e-3})
    assert settings.set == {"workers.num": 2, "rates.multi_modal_projector": 1e-3}
    stages = [trial.stage for trial in trials_of(settings, stage_of(settings))]
    assert {stage.workers.num for stage in stages} == {2}
    assert all(stage.rates.keys() == {"language_model", "multi_modal_projector"} for stage in stages)


def test_the_command_line_reaches_every_setting(tmp_path):
    (tmp_path / "search.yaml").write_text(json.dumps(search().model_dump(mode="json", exclude_unset=True)))
    more = ["set.workers.num=3", "space.lora.r.choice=[2, 4]", "trials=8"]
    settings = load(TuneSettings, tmp_path / "search.yaml", more)
    assert settings.set == {"workers.num": 3}
    assert settings.space["lora.r"].choice == [2, 4]
    assert set(settings.space) == {"rates.language_model", "start.seed", "lora.r"}


def test_settings_survive_their_file():
    settings = search(set={"steps": 3})
    again = TuneSettings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json"))))
    assert again == settings
    assert identity(again) == identity(settings)


@pytest.mark.parametrize(
    ("more", "said", "remedy"),
    [
        ({"space": {"rates.langage_model": {"grid": [1.0]}}}, "no model has a part", "language_model"),
        ({"space": {"lora.rte": {"grid": [1.0]}}}, "no setting 'lora.rte'", "'lora.rate'"),
        ({"space": {"glbal_batch": {"grid": [4]}}}, "no setting 'glbal_batch'", "'global_batch'"),
        ({"space": {"lora.r": {"uniform": [1, 9]}}}, "lora.r", ""),
        ({"space": {"steps": {"grid": [4, "many"]}}}, "steps=many", ""),
        ({"space": {"precision": {"choice": ["fp16"]}}}, "precision=fp16", ""),
        ({"space": {"out": {"grid": ["a"]}}}, "'out' cannot be searched", "set:"),
        ({"space": {"seed": {"grid": [1, 2]}}}, "cannot be searched", "set:"),
        ({"space": {"validation.fraction": {"grid": [0.1]}}}, "cannot be searched", "set:"),
        ({"set": {"stepss": 3}}, "no setting 'stepss'", "'steps'"),
        ({"trials": None}, "how many trials", "trials=8"),
        ({"trials": 1}, "the grid has 2 combinations", "trials=2"),
    ],
)
def test_what_no_stage_takes_is_refused(more, said, remedy):
    settings = search(**more)
    with pytest.raises(RequestError, match=said) as refused:
        trials_of(settings, stage_of(settings))
    assert remedy in refused.value.remedy


@pytest.mark.parametrize(
    "axis",
    [
        {},
        {"grid": [1], "choice": [1]},
        {"grid": []},
        {"uniform": [2, 1]},
        {"loguniform": [0, 1]},
        {"uniform": [0, float("inf")]},
        {"choise": [1]},
    ],
)
def test_an_axis_is_one_way(axis, tmp_path):
    (tmp_path / "search.yaml").write_text(
        json.dumps({**search().model_dump(mode="json"), "space": {"start.seed": axis}})
    )
    with pytest.raises(RequestError) as refused:
        load(TuneSettings, tmp_path / "search.yaml")
    assert "choise" not in axis or "choice" in refused.value.remedy


def test_a_value_below_an_absent_group_makes_the_group():
    stage = StageSettings.model_validate(STAGE)
    assert stage.lora is None
    assert with_values(stage, {"lora.rate": 1e-3}, "x").lora.rate == 1e-3


@pytest.fixture
def outcomes(tmp_path) -> list:
    """Four trials: one to its end, one stopped early with a better value on the way, one failed, one open."""
    settings = search(str(tmp_path), space={"start.seed": {"grid": [1, 2, 3, 4]}}, trials=None)
    trials = trials_of(settings, stage_of(settings))
    curves = ([(2, 3.0), (4, 1.5)], [(2, 1.5)], [], [(2, 1.0)])
    for trial, curve in zip(trials, curves, strict=True):
        store = Store(trial.stage.out)
        for step, loss in curve:
            scored.put(store, {"step": step, "loss": loss}, trial.stage)
        rows = [json.dumps({"step": s + 1}) for s in range(curve[-1][0])] if curve else []
        store.replace("metrics.jsonl", "\n".join(rows).encode())
    Store(trials[0].stage.out).replace("commit.json", b"{}")
    Store(trials[1].stage.out).replace("stopped.json", b'{"step": 2}')
    Store(trials[2].stage.out).replace("failed.json", b'{"reason": "no room"}')
    return [outcome_of(trial, "loss") for trial in trials]


def test_trials_are_read_from_their_folders(outcomes):
    assert [o.status for o in outcomes] == ["done", "stopped early", "failed", "not finished"]
    assert [o.steps for o in outcomes] == [4, 2, 0, 2]
    assert outcomes[2].reason == "no room"
    assert [o.over for o in outcomes] == [True, True, False, False]


def test_the_winner_is_the_best_that_is_over_and_of_equals_the_first(outcomes):
    assert ranked(outcomes, "min") == outcomes
    assert winner_of(outcomes, "min") is outcomes[0]
    assert ranked(outcomes, "max")[0] is outcomes[0]
    assert winner_of(outcomes[2:], "min") is None
    assert overrides_of({"lora.rate": 2e-4, "template": "v1", "flip": 0.0}) == [
        "lora.rate=0.0002",
        "template=v1",
        "flip=0.0",
    ]


def test_the_table_has_one_line_a_trial_and_says_why_one_failed(outcomes):
    settings = search(space={"start.seed": {"grid": [1, 2, 3, 4]}}, trials=None)
    lines = table({"metric": "loss", "trials": [o.row(settings) for o in outcomes]}).splitlines()
    assert lines[0].split() == ["loss", "at", "step", "steps", "status", "start.seed"]
    assert lines[1].split() == ["1.5000", "4", "4", "done", "1"]
    assert lines[3].split() == ["-", "-", "0", "failed", "3"]
    assert lines[-1] == "failed: start.seed=3: no room"


def rows_to_draw() -> list[dict]:
    space = [(3e-4, "v1", "done"), (1e-5, "plain <b>", "stopped early"), (1e-2, "v1", "failed")]
    return [
        {
            "settings": {"lora.rate": rate, "template": template},
            "status": status,
            "curve": [] if status == "failed" else [[10 * (i + 1), 3.0 / (i + 1)] for i in range(4 - place)],
            "value": None if status == "failed" else 1.0,
            "at_step": 40,
            "steps": 40,
        }
        for place, (rate, template, status) in enumerate(space)
    ]


def test_the_picture_shows_every_trial_and_every_setting():
    picture = search_svg(rows_to_draw(), "loss", "min", {"lora.rate"})
    tree = ElementTree.fromstring(picture)  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    assert len(tree.findall(f"{space}polyline")) == 2  # the one that failed has no curve
    texts = [t.text for t in tree.iter(f"{space}text")]
    assert {"lora.rate (log)", "template", "plain <b>", "step"} <= set(texts)
    assert any("1 done, 1 stopped early, 1 failed" in str(t) for t in texts)
    width, height = float(tree.attrib["width"]), float(tree.attrib["height"])
    for dot in tree.iter(f"{space}circle"):
        assert 0 <= float(dot.attrib["cx"]) <= width
        assert 0 <= float(dot.attrib["cy"]) <= height


def test_a_search_without_values_is_drawn_as_well():
    assert ElementTree.fromstring(search_svg(rows_to_draw()[2:], "loss", "min"))  # noqa: S314


def test_the_yamls_of_searches_name_trials(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    for name, count in (("tune", 16), ("demo_tune", 6)):
        settings = load(TuneSettings, f"jobs/{name}.yaml")
        trials = trials_of(settings, stage_of(settings))
        assert len(trials) == count
        assert all(scored.wanted(trial.stage) for trial in trials)
