"""raypipe ask: one question about an image or a video, by any kind of model."""

import json

import pytest

from raypipe.cli import main
from raypipe.errors import RequestError
from raypipe.evaluate.ask import ask, kind_of
from raypipe.evaluate.engine import Way
from raypipe.evaluate.local import load_engine
from raypipe.media.decode import DecodeRequest, decode
from raypipe.model.describe import describe_model
from raypipe.records import MediumKind
from tests.support.clips import picture, write_clip, write_image
from tests.support.kinds import KINDS, models
from tests.support.shown import Shown

IMAGE, VIDEO = MediumKind.IMAGE, MediumKind.VIDEO


@pytest.fixture(scope="module")
def named(tmp_path_factory, originals):
    return models(tmp_path_factory.mktemp("kinds"), originals)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    clip, image = write_clip(folder / "clip.mp4", 16), write_image(folder / "image.jpg", 341)
    return {VIDEO: clip, IMAGE: image}


@pytest.mark.parametrize("kind", [VIDEO, IMAGE])
@pytest.mark.parametrize("model", KINDS)
def test_it_answers_as_the_model_does_about_what_training_would_have_shown(model, kind, named, files):
    path, base = named[model]
    card, _ = describe_model(path, base)
    file = files[kind]
    shown = decode(DecodeRequest("k", kind, str(file.parent), file.name, card.sampling, card.rendition))
    way = Way(card.template, card.image_aspect, 12)
    expected = load_engine(path, base, "fp32", 1).alone(Shown(kind, shown.frames, ()), "what moves", way)
    assert ask(path, base, str(file), "what moves", 12) == expected.reply.text
    assert not expected.reply.failed


def test_from_the_command_line(tiny_folder, files, capsys):
    said = {}
    for kind, file in files.items():
        command = [
            "ask",
            "--model",
            str(tiny_folder),
            str(file),
            "what moves",
            "--max-new-tokens",
            "9",
            "--json",
        ]
        assert main(command) == 0
        said[kind] = json.loads(capsys.readouterr().out)["answer"]
        assert main(["ask", "--model", str(tiny_folder), str(file), "what moves", "max_new_tokens=9"]) == 0
        assert capsys.readouterr().out.strip() == said[kind].strip()
    assert said[IMAGE] != said[VIDEO]


def test_an_image_is_known_by_what_is_in_it(tmp_path, files):
    for kind, suffix in (("PNG", "mp4"), ("WEBP", "bin"), ("BMP", "avi"), ("TIFF", "x"), ("JPEG", "mov")):
        picture(3).save(tmp_path / f"file.{suffix}", kind)
        assert kind_of(tmp_path / f"file.{suffix}") is IMAGE
    picture(3).save(tmp_path / "moves.jpg", "GIF")
    assert kind_of(tmp_path / "moves.jpg") is VIDEO
    assert kind_of(files[VIDEO]) is VIDEO


def test_wrong_requests(tiny_folder, originals, files, tmp_path, capsys):
    model, clip = str(tiny_folder), str(files[VIDEO])
    (tmp_path / "torn.mp4").write_bytes(b"no video at all")
    for args, said in (
        ((model, None, str(tmp_path / "none.mp4"), "What?", 4), "cannot read .*none.mp4: No such file"),
        ((model, None, str(tmp_path), "What?", 4), "Is a directory"),
        ((model, None, clip, "bars " * 1500, 4), r"the prompt has \d+ tokens, .* context has 1024"),
        ((model, None, str(tmp_path / "torn.mp4"), "What?", 4), "cannot show .*torn.mp4 to the model: media"),
        ((model, None, clip, "  ", 4), "the question is empty"),
        ((originals.lora, None, clip, "What?", 4), "LoRA adapter"),
        ((model, model, clip, "What?", 4), "a whole model"),
        ((str(tmp_path / "no"), None, clip, "What?", 4), "no such model folder"),
    ):
        with pytest.raises(RequestError, match=said):
            ask(*args)
    assert main(["ask", "--model", model, str(tmp_path / "none.mp4"), "What?"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["ask", "--model", model, clip]) == 2
    assert main(["ask", "--model", model, clip, "What?", "max_new_tokens=0"]) == 2
