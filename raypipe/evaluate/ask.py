"""One question about one file, in this process, by the same engine as a whole evaluation."""

from __future__ import annotations

from pathlib import Path

from raypipe.errors import RequestError
from raypipe.evaluate.engine import Shown, Way
from raypipe.media.decode import DecodeRequest
from raypipe.media.sandbox import Sandbox
from raypipe.model.describe import model_card
from raypipe.records import Medium, MediumKind, Rejection
from raypipe.settings import DecodeLimits, expanded

# How files of images begin. Anything else is read as a video, a GIF too: what its name says does not count.
IMAGES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")


def ask(model: str, base: str | None, file: str, question: str, max_new_tokens: int) -> str:
    """The model's answer about an image or a video; in half precision on a GPU, in full on a CPU.

    Raises:
        RequestError: the file cannot be read, the model cannot be loaded or could not be asked.
    """
    if not question.strip():
        raise RequestError("the question is empty", 'raypipe ask --model M clip.mp4 "What happens?"')
    card = model_card(model, base)  # before anything slow, so that a wrong request is told at once
    path = expanded(file).resolve()
    kind = kind_of(path)
    request = DecodeRequest("ask", kind, str(path.parent), path.name, card.sampling, card.rendition)
    with Sandbox(DecodeLimits()) as sandbox:
        medium = sandbox.decode(request)
    if isinstance(medium, Rejection):
        raise RequestError(
            f"cannot show {path} to the model: {medium.reason}: {medium.detail}",
            "name another image or video, or fetch the file again; ffprobe FILE says what it holds",
        )
    way = Way(card.template, card.image_aspect, max_new_tokens)
    return _answer(model, base, medium, question, way)


def kind_of(path: Path) -> MediumKind:
    """Whether a file holds an image or a video, by how it begins.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        with open(path, "rb") as handle:
            begin = handle.read(12)
    except OSError as fault:
        said = f"cannot read {path}: {fault.strerror or fault}"
        raise RequestError(said, "name an image or a video") from fault
    webp = begin[:4] == b"RIFF" and begin[8:] == b"WEBP"
    return MediumKind.IMAGE if webp or begin.startswith(IMAGES) else MediumKind.VIDEO


def _answer(model: str, base: str | None, medium: Medium, question: str, way: Way) -> str:
    import torch

    from raypipe.evaluate.local import load_engine

    engine = load_engine(model, base, "bf16" if torch.cuda.is_available() else "fp32", 1)
    ((reply,),) = engine.answer([Shown(medium.kind, medium.frames, (question,))], way)
    if reply.failed:
        raise RequestError(f"the model could not be asked: {reply.failed}", "ask a shorter question")
    return reply.text
