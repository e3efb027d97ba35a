"""Pictures are scaled where media are read, ahead of the model, and the answers are the same."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raypipe.evaluate import run as running
from raypipe.evaluate.ask import ask
from raypipe.evaluate.local import LocalEngine
from raypipe.evaluate.read import made_ready
from raypipe.evaluate.run import evaluate, in_process
from raypipe.model.pictures import is_ready
from raypipe.model.pixels import Look
from raypipe.records import PREDICTION_SCHEMA, Medium, MediumKind, predictions_of
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from tests.support.eval_media import asking, eval_root
from tests.support.kinds import models
from tests.support.shown import picture


def answers(settings) -> dict[str, str]:
    evaluate(settings, execute=in_process)
    rows = Ledger(Store(settings.out), "predictions", PREDICTION_SCHEMA).rows()
    return {p.question_id: p.text for p in predictions_of(rows)}


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_the_model_is_given_pictures_as_it_takes_them(aspect, tmp_path, tiny_folder, monkeypatch):
    root, model = eval_root(tmp_path / "eval"), Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    card = model / "raypipe.json"
    card.write_text(card.read_text().replace('"image_aspect": "pad"', f'"image_aspect": "{aspect}"'))
    given, real = [], LocalEngine.pixels
    monkeypatch.setattr(
        LocalEngine,
        "pixels",
        lambda self, frames, *more: given.append(is_ready(frames)) or real(self, frames, *more),
    )
    ahead = answers(asking(root, model, tmp_path / "ahead", certificate=0))
    assert given == [True] * 4
    given.clear()
    monkeypatch.setattr(running, "look_of", lambda settings: None)
    assert answers(asking(root, model, tmp_path / "beside", certificate=0)) == ahead
    assert given == [False] * 4
    assert len(set(ahead.values())) > 2


@pytest.mark.parametrize("kind", ["original", "original lora over its language model", "lora"])
def test_an_evaluation_answers_as_ask_does(kind, tmp_path, originals):
    """One path shows a model its media, whatever its layout: as it was trained."""
    root = eval_root(tmp_path / "eval")
    (tmp_path / "models").mkdir()
    model, base = models(tmp_path / "models", originals)[kind]
    settings = asking(root, model, tmp_path / "run", model_base=base, certificate=3)
    summary = evaluate(settings, execute=in_process)
    assert summary["certificate"]["asked"] == summary["certificate"]["equal"] == 3
    rows = predictions_of(Ledger(Store(settings.out), "predictions", PREDICTION_SCHEMA).rows())
    assert len(rows) == 8
    for row in rows:
        assert row.text == ask(model, base, str(root / row.medium), row.prompt, 5)
    assert len({row.text for row in rows}) > 2


def test_a_medium_with_a_frame_that_is_no_picture_stays_as_it_is():
    frames = (picture(1), b"torn")
    medium = Medium("k", MediumKind.VIDEO, "p", "s", frames, (0.0, 1.0), (0, 1), ("clean",) * 2, 8, 8, "")
    assert made_ready(medium, Look(28)) == medium
    good = made_ready(replace(medium, frames=frames[:1] * 2), Look(28))
    assert is_ready(good.frames)
    assert good.frames[0] is good.frames[1]
