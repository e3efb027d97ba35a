"""A model's card and name without its weights: as of the loaded model, for every kind."""

import json
import shutil
from pathlib import Path

import pytest

from raypipe.errors import RequestError
from raypipe.model import build, original
from raypipe.model.build import load_model, save_model
from raypipe.model.cards import CARD, Card
from raypipe.model.describe import describe_model, model_look, weights_fingerprint
from tests.support.kinds import KINDS, models
from tests.support.tiny import tiny_model


@pytest.fixture(scope="module")
def named(tmp_path_factory, originals):
    return models(tmp_path_factory.mktemp("kinds"), originals)


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_is_that_of_the_loaded_model(kind, named, monkeypatch):
    model, base = named[kind]
    whole = load_model(model, base)
    loaded, look = whole.card, whole.look()

    def refuse(*_args, **_more):
        raise AssertionError("weights were loaded")

    for module, name in ((build, "load_model"), (original, "_fill"), (original, "fill"), (original, "empty")):
        monkeypatch.setattr(module, name, refuse)
    card, _ = describe_model(model, base)
    assert card == loaded
    assert model_look(model, base) == look
    if kind.startswith("original"):
        assert card.pixels == "reference"
        assert card.image_aspect == ("square" if "stage 1" in kind else "pad")


def test_every_kind_has_a_name_of_its_own(named):
    found = {kind: describe_model(*named[kind])[1] for kind in KINDS}
    assert len(set(found.values())) == len(KINDS)


def test_the_towers_count_where_the_base_is_a_language_model(originals, tmp_path):
    copied = {n: Path(shutil.copytree(getattr(originals, n), tmp_path / n)) for n in ("video", "stage1")}
    body = json.loads((copied["stage1"] / "config.json").read_text())
    body["mm_video_tower"] = str(copied["video"])
    (copied["stage1"] / "config.json").write_text(json.dumps(body))
    args = (str(copied["stage1"]), originals.llm)
    before = weights_fingerprint(*args)
    assert before == weights_fingerprint(*args)
    weights = copied["video"] / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert weights_fingerprint(*args) != before


def test_a_folder_without_a_card_is_asked_as_its_family_is_trained(tmp_path):
    loaded = tiny_model(family="llava_onevision")
    loaded.config.video_frames = 4
    save_model(loaded, loaded.card, tmp_path)
    (tmp_path / CARD).unlink()
    card, _ = describe_model(str(tmp_path))
    assert (card.template, card.sampling.frames) == ("chatml", 4)
    assert load_model(str(tmp_path)).card == card


def test_wrong_requests_are_told_before_anything_is_loaded(originals, tiny_folder, tmp_path):
    for model, base, said in (
        (originals.lora, None, "LoRA adapter"),
        (originals.stage1, None, "a projector without its model"),
        (str(tiny_folder), originals.whole, "a whole model, not an adapter"),
        (originals.llm, None, "a language model alone"),
        (originals.video, None, "a vision tower alone"),
        (str(tmp_path / "none"), None, "no such model folder"),
        (originals.lora, str(tmp_path / "none"), "no such model folder"),
    ):
        with pytest.raises(RequestError, match=said):
            describe_model(model, base)
    copied = Path(shutil.copytree(tiny_folder, tmp_path / "copied"))
    (copied / CARD).write_text('{"template": "v1", "unknown": 1}')
    with pytest.raises(RequestError, match=r"raypipe\.json cannot be read"):
        describe_model(str(copied))
    assert Card.read(tiny_folder) == load_model(str(tiny_folder)).card
