"""One question about one file, in this process."""

from __future__ import annotations

from pathlib import Path

from raypipe.errors import RequestError
from raypipe.evaluate.engine import Shown, Way
from raypipe.evaluate.local import LocalEngine
from raypipe.media.decode import DecodeRequest
from raypipe.media.sandbox import Sandbox
from raypipe.model.build import load_model
from raypipe.records import MediumKind, Rejection
from raypipe.settings import DecodeLimits

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def ask(model: str, base: str | None, file: str, question: str, max_new_tokens: int) -> str:
    """The model's answer about an image or a video.

    Raises:
        RequestError: the file cannot be read, or the model cannot be loaded.
    """
    path = Path(file).expanduser().resolve()
    kind = MediumKind.IMAGE if path.suffix.lower() in IMAGES else MediumKind.VIDEO
    loaded = load_model(model, base)
    card = loaded.card
    request = DecodeRequest("ask", kind, str(path.parent), path.name, card.sampling, card.rendition)
    with Sandbox(DecodeLimits()) as sandbox:
        medium = sandbox.decode(request)
    if isinstance(medium, Rejection):
        raise RequestError(f"cannot show {path} to the model: {medium.reason}: {medium.detail}")
    engine = LocalEngine(loaded, "fp32", 1)
    way = Way(card.template, card.image_aspect, max_new_tokens)
    ((reply,),) = engine.answer([Shown(kind, medium.frames, (question,))], way)
    if reply.failed:
        raise RequestError(f"the model could not be asked about {path}: {reply.failed}")
    return reply.text
