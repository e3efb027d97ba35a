"""Pictures are scaled where media are read, ahead of the model, and the answers are the same."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raypipe.evaluate import run as running
from raypipe.evaluate.local import LocalEngine
from raypipe.evaluate.read import made_ready
from raypipe.evaluate.run import evaluate, in_process
from raypipe.model.pictures import is_ready
from raypipe.model.pixels import Look
from raypipe.records import PREDICTION_SCHEMA, Medium, MediumKind, predictions_of
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from tests.support.eval_media import asking, eval_root
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


def test_a_medium_with_a_frame_that_is_no_picture_stays_as_it_is():
    frames = (picture(1), b"torn")
    medium = Medium("k", MediumKind.VIDEO, "p", "s", frames, (0.0, 1.0), (0, 1), ("clean",) * 2, 8, 8, "")
    assert made_ready(medium, Look(28)) == medium
    good = made_ready(replace(medium, frames=frames[:1] * 2), Look(28))
    assert is_ready(good.frames)
    assert good.frames[0] is good.frames[1]
