"""A stage's arithmetic, and what is refused before anything starts."""

import pytest

from raypipe.errors import RequestError
from raypipe.settings import Rendition, StageSettings, Workers
from raypipe.train.plan import plan_stage
from tests.support.clips import data_root, write_annotations
from tests.support.prepared import drawn_run, prepared


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return drawn_run(tmp_path_factory.mktemp("plan"))


def stage(run, **more) -> StageSettings:
    values = {
        "name": "s",
        "out": "unused",
        "start": {"random": "tiny"},
        "mixture": [{"data": str(run)}],
        "rates": {"language_model": 1e-3},
    }
    return StageSettings.model_validate({**values, **more})


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ({"global_batch": 8}, 1),
        ({"global_batch": 7, "workers": Workers(num=2)}, 2),
        ({"global_batch": 4}, 2),
        ({"global_batch": 3}, 3),
        ({"global_batch": 3, "epochs": 2.0}, 6),
        ({"global_batch": 3, "epochs": 0.5}, 2),
        ({"global_batch": 3, "steps": 11}, 11),
    ],
)
def test_steps(run, more, steps):
    plan = plan_stage(stage(run, **more))
    assert plan.samples == 8
    assert plan.steps == steps


@pytest.mark.parametrize(
    ("weights", "more", "samples", "steps"),
    [
        ((1.0, 2.0), {}, 24, 6),
        ((1.0, 0.25), {}, 10, 3),
        ((0.3, 0.3), {}, 4, 1),
        ((0.3, 0.3), {"epochs": 4.0}, 4, 5),  # 4, 4, 6 and 4 samples
        ((1.0, 0.5), {"epochs": 2.5}, 12, 8),
    ],
)
def test_weights_count(run, weights, more, samples, steps):
    parts = [{"data": str(run), "weight": w} for w in weights]
    plan = plan_stage(stage(run, mixture=parts, global_batch=4, **more))
    assert (plan.samples, plan.steps, plan.held) == (samples, steps, 0)


def test_weights_that_leave_nothing_are_refused(run):
    with pytest.raises(RequestError, match="weights leave no sample"):
        plan_stage(stage(run, mixture=[{"data": str(run), "weight": 0.01}]))


def test_a_part_that_is_no_run_is_refused(run):
    with pytest.raises(RequestError, match="not a run folder"):
        plan_stage(stage(run, mixture=[{"data": "/no/such/run"}]))


def test_parts_must_be_stored_alike(run, tmp_path):
    data_root(tmp_path / "data")
    prepared(tmp_path / "data", tmp_path / "other", rendition=Rendition(short_side=24))
    with pytest.raises(RequestError, match="differently"):
        plan_stage(stage(run, mixture=[{"data": str(run)}, {"data": str(tmp_path / "other")}]))


def test_a_mixture_without_samples_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    write_annotations(tmp_path / "data", [{"conversations": []}])
    prepared(tmp_path / "data", tmp_path / "run", error_budget=1.0)
    with pytest.raises(RequestError, match="no sample"):
        plan_stage(stage(tmp_path / "run"))


def test_an_unfinished_part_is_refused(run, tmp_path):
    (run / "commit.json").rename(tmp_path / "commit.json")
    try:
        with pytest.raises(RequestError, match="not finished"):
            plan_stage(stage(run))
    finally:
        (tmp_path / "commit.json").rename(run / "commit.json")
