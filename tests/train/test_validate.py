"""Validation beside a real stage on Ray: its figures are the checkpoint's, and it never stops training."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from raypipe.model.splice import LossHead
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.store.run import Run
from raypipe.store.verify import verify
from raypipe.train import scored, validate
from raypipe.train.collate import collate
from raypipe.train.examples import Examples
from raypipe.train.mixture import Mixture
from raypipe.train.plan import plan_stage
from raypipe.train.run import train
from raypipe.train.split import split
from raypipe.train.start import build_model
from raypipe.train.state import load_trained
from raypipe.train.validate import validating
from tests.support.eval_media import eval_root
from tests.support.held import seed_that_holds
from tests.support.prepared import drawn_run

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_local")]
STEPS = (2, 4, 6)


def stage(folder: Path, name: str, **more) -> StageSettings:
    values = {
        "name": name,
        "out": str(folder / name),
        "start": {"random": "tiny", "seed": 4},
        "mixture": [{"data": str(folder / "run")}],
        "rates": {"language_model": 1e-3, "multi_modal_projector": 1e-3},
        "steps": STEPS[-1],
        "global_batch": 2,
        "micro_batch": 2,
        "max_tokens": 512,
        "precision": "fp32",
        "seed": seed_that_holds(folder / "run", 0.5),
        "gradient_checkpointing": False,
        "workers": {"num": 1, "cpus": 0.5},
        "checkpoint": {"every_steps": 2, "keep": 1},
    }
    return StageSettings.model_validate({**values, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("validated")
    drawn_run(folder)
    eval_root(folder / "eval")
    return folder


@pytest.fixture(scope="module")
def settings(folder) -> StageSettings:
    chosen = {
        "fraction": 0.5,
        "benchmarks": ["pope"],
        "eval_root": str(folder / "eval"),
        "questions": 3,
        "mode": "max",  # of a loss that falls: the first checkpoint is the best, and the oldest
        "cpus": 0.5,
    }
    return stage(folder, "stage", validation=chosen)


@pytest.fixture(scope="module")
def store(settings, ray_local) -> Store:
    told: list[dict] = []
    train(settings, progress=told.append)
    assert told[-1]["validation"].startswith("validation of step 6: loss")
    return Store(settings.out)


def by_hand(settings: StageSettings, store: Store, step: int) -> tuple[float, int]:
    """Loss per learned token of the samples held out, one sample at a time."""
    mixture = Mixture([part.data for part in settings.mixture])
    loaded = build_model(settings, mixture)
    load_trained(loaded.model, store, json.loads(store.read(f"checkpoints/step-{step:08d}.json")))
    examples, head = Examples(mixture, loaded, settings), LossHead(loaded.model.eval(), loaded.family)
    held, total, tokens = split(mixture, settings).held, 0.0, 0
    assert 2 <= len(held) < len(mixture)
    for number in held:
        example = examples[int(number)]
        with torch.no_grad():
            total += float(head(collate([(example,)], torch.float32))[0])
        tokens += sum(label >= 0 for label in example.encoded.labels[1:])
    return total / tokens, len(held)


def test_the_loss_is_that_of_the_checkpoint(settings, store):
    rows = {r["step"]: r for r in scored.records(store)}
    assert tuple(rows) == STEPS
    for step in (2, 6):
        loss, samples = by_hand(settings, store, step)
        assert rows[step]["loss"] == pytest.approx(loss, abs=2e-6)
        assert rows[step]["samples"] == samples
    assert rows[2]["loss"] - rows[6]["loss"] > 0.05  # it is not the loss of one model three times
    kinds = rows[2]["kinds"]
    assert all(k["samples"] > 0 for k in kinds.values())
    assert len(kinds) >= 2


def test_the_best_checkpoint_is_kept_beside_the_newest(store):
    assert scored.best_step(store) == 2
    assert scored.committed(store) == [2, 6]  # keep: 1


def test_benchmarks_are_evaluate_runs_of_their_own(store):
    for record in scored.records(store):
        assert set(record["benchmarks"]) == {"pope"}
        inner = f"{store.root}/validation/step-{record['step']:08d}"
        assert verify(inner).damage == []
        scores = json.loads(store.read(f"validation/step-{record['step']:08d}/scores.json"))
        assert scores["coverage"]["pope"]["questions"] == 3
        told = {s["metric"]: s["value"] for s in scores["benchmarks"]["pope"]}
        assert told == record["benchmarks"]["pope"]


def test_a_validated_run_is_proved(store):
    assert verify(store.root).damage == []
    assert any(f["path"] == "validation.jsonl" for f in json.loads(store.read("manifest.json"))["files"])


def again(store: Store, folder: Path, settings: StageSettings) -> tuple[StageSettings, Store]:
    """A copy of the run as a driver leaves it that died before the last checkpoint was scored."""
    shutil.copytree(store.root, folder)
    copy = Store(str(folder))
    for name in ("commit.json", scored.name_of(6)):
        copy.delete(name)
    return settings.model_copy(update={"out": str(folder)}), copy


def test_a_new_driver_scores_what_was_missed(settings, store, tmp_path):
    mine, copy = again(store, tmp_path / "again", settings)
    with validating(Run(mine.out), plan_stage(mine), mine):
        pass  # training is over already
    before, after = scored.records(store), scored.records(copy)
    assert len(after) == 3  # the deleted one is there again
    for record in (before[2], after[2]):
        record.pop("seconds")
    assert after == before


def test_validation_that_fails_is_tried_again_then_recorded(settings, store, tmp_path, monkeypatch):
    mine, copy = again(store, tmp_path / "failing", settings)
    for file in (tmp_path / "failing/checkpoints").glob("step-00000006-*/*.safetensors"):
        file.unlink()
    tried, told, score = [], [], validate._Validation._score

    def counted(self, step: int) -> dict:
        tried.append(step)
        return score(self, step)

    monkeypatch.setattr(validate._Validation, "_score", counted)
    with validating(Run(mine.out), plan_stage(mine), mine, told.append):
        pass
    assert tried == [6, 6]
    assert scored.records(copy)[2].keys() == {"step", "fault"}
    assert told[0].startswith("validation of step 6 failed: ")
    assert scored.best_step(copy) == 2


def test_an_error_of_training_ends_validation(settings, store, tmp_path):
    mine, copy = again(store, tmp_path / "ended", settings)
    with pytest.raises(ZeroDivisionError), validating(Run(mine.out), plan_stage(mine), mine):
        1 / 0  # noqa: B018
    assert not copy.exists(scored.name_of(6))
