"""What validation leaves on disk: records, the table, the best, and what must stay because of them."""

import json

import pytest

from raypipe.errors import RequestError
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.train import scored
from raypipe.train.status import Status
from raypipe.train.validate import check_validation, line_of


def stage(**more) -> StageSettings:
    values = {"name": "s", "out": "x", "start": {"random": "tiny"}, "mixture": [{"data": "d"}]}
    return StageSettings.model_validate({"checkpoint": {"every_steps": 2}, **values, **more})


def validated(**more) -> StageSettings:
    return stage(validation={"fraction": 0.1, **more})


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(str(tmp_path))
    for step in (2, 4, 6, 7):
        folder = f"checkpoints/step-{step:08d}-a"
        store.replace(f"checkpoints/step-{step:08d}.json", json.dumps({"folder": folder}).encode())
        store.replace(f"{folder}/rank-00000.safetensors", b"x")
    return store


def test_every_checkpoint_is_due_until_it_has_a_record(store):
    assert scored.due(store, validated(), 7) == [2, 4, 6, 7]
    scored.put(store, {"step": 4, "loss": 1.0}, validated())
    scored.put(store, {"step": 2, "fault": "gone"}, validated())
    assert scored.due(store, validated(), 7) == [6, 7]


def test_with_a_period_only_its_steps_and_the_last_are_due(store):
    assert scored.due(store, validated(every_steps=4), 7) == [4, 7]
    assert scored.due(store, stage(), 7) == []


def test_the_best_is_kept_and_of_equals_it_is_the_earlier(store):
    assert scored.best_step(store) is None
    for step, loss in ((6, 2.0), (2, 3.0), (4, 2.0), (7, None)):
        scored.put(store, {"step": step, "loss": loss, "low": 0, "high": 9}, validated())
    assert scored.best_step(store) == 4
    assert json.loads(store.read("best.json")) == {"step": 4, "metric": "loss", "mode": "min", "value": 2.0}
    rows = [json.loads(line) for line in store.read("validation.jsonl").decode().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 7]


def test_the_best_may_go_by_a_benchmark_and_the_largest():
    chosen = validated(benchmarks=["pope"], eval_root="e", metric="pope.f1", mode="max").validation
    rows = [{"step": s, "loss": 1.0, "benchmarks": {"pope": {"f1": v}}} for s, v in ((1, 40.0), (2, 60.0))]
    assert scored.best_of(rows, chosen)["step"] == 2
    assert scored.best_of([{"step": 1, "loss": 1.0}], chosen) is None
    assert scored.value_of({"loss": float("nan")}, "loss") is None


def test_a_checkpoint_stays_until_it_is_scored_and_the_best_stays(store):
    steps = [2, 4, 6, 7]
    assert scored.protected(store, steps, stage()) == set()
    assert scored.protected(store, steps, validated(every_steps=4)) == {4}
    for step, loss in ((2, 1.0), (4, 3.0)):
        scored.put(store, {"step": step, "loss": loss}, validated())
    assert scored.protected(store, steps, validated()) == {2, 6, 7}
    assert scored.protected(store, [6, 7], validated()) == {6, 7}  # the best is not there any more


def test_after_training_what_stayed_only_to_be_scored_goes(store):
    for step, loss in ((2, 1.0), (4, 3.0), (6, 2.0)):
        scored.put(store, {"step": step, "loss": loss}, validated())
    scored.prune(store, stage(validation={"fraction": 0.1}, checkpoint={"every_steps": 2, "keep": 1}))
    assert scored.committed(store) == [2, 7]
    assert {int(n.split("-")[1].split(".")[0]) for n in store.list("checkpoints")} == {2, 7}


def test_a_worker_that_waits_goes_on_when_it_is_let_go(store, monkeypatch):
    settings, status, slept = validated(wait=True), Status(), []

    def sleep(seconds: float) -> None:
        slept.append(status.phase)
        if len(slept) in (2, 3):
            scored.let_go(store, len(slept) - 1)

    monkeypatch.setattr(scored.time, "sleep", sleep)
    scored.hold(store, 2, settings, 7, status)
    assert slept == ["validation"] * 3
    scored.hold(store, 7, settings, 7, status)  # the last step is not waited for
    scored.hold(store, 4, validated(), 7, status)
    scored.hold(store, 6, validated(wait=True, every_steps=4), 7, status)
    assert len(slept) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"validation": {"fraction": 0.1, "every_steps": 3}}, "no multiple of checkpoint.every_steps=2"),
        ({"validation": {"fraction": 0.1, "metric": "pope.f1"}}, "measured by nothing"),
        ({"validation": {"fraction": 0.1, "metric": "accuracy"}}, "measured by nothing"),
        ({"export": "best"}, "needs validation"),
        ({"validation": {"benchmarks": ["pope"], "eval_root": "e"}}, "nothing is held out"),
        ({"validation": {"fraction": 0.1, "benchmarks": ["msvd_qa"], "eval_root": "e"}}, "are judged"),
        (
            {"validation": {"fraction": 0.1, "benchmarks": ["pop"], "eval_root": "e"}},
            "no benchmark is called",
        ),
        ({"validation": {"fraction": 0.1, "benchmarks": ["gqa"], "eval_root": "none"}}, "no such file"),
    ],
)
def test_validation_that_cannot_work_is_refused(settings, said):
    with pytest.raises(RequestError, match=said):
        check_validation(stage(**settings))


def test_a_record_is_one_line_for_people():
    record = {
        "step": 4,
        "loss": 1.5,
        "low": 1.25,
        "high": 1.75,
        "benchmarks": {"pope": {"f1": 50.0, "x": None}},
    }
    assert line_of(record) == "validation of step 4: loss 1.5000 [1.2500, 1.7500], pope.f1 50.00"
    assert line_of({"step": 4, "fault": "no room"}) == "validation of step 4 failed: no room"
