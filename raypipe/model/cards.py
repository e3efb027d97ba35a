"""What a model was trained with: its card, or where it has none, what its layout says of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError
from raypipe.model.family import Family
from raypipe.model.layouts import ADAPTER_FILES, body_of, weight_files
from raypipe.model.weights import shapes
from raypipe.settings import Rendition, Sampling

CARD = "raypipe.json"


@dataclass(frozen=True)
class Card:
    """What a model was trained with, kept beside its weights, so that evaluation shows it the same."""

    template: str = "v1"
    image_aspect: str = "pad"
    sampling: Sampling = field(default_factory=Sampling)
    rendition: Rendition = field(default_factory=Rendition)
    parents: tuple[dict[str, str], ...] = ()
    pixels: str = "antialias"  # the recipe: see pixels.py

    def dump(self) -> str:
        body = asdict(self)
        body["sampling"], body["rendition"] = self.sampling.model_dump(), self.rendition.model_dump()
        return json.dumps(body, indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a model folder; the reference's ways where there is none.

        Raises:
            RequestError: the card is damaged.
        """
        file = folder / CARD
        if not file.exists():
            return cls()
        try:
            return cls._of(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as fault:
            raise RequestError(f"{file} cannot be read: {str(fault)[:200]}", "fetch it again") from fault

    @classmethod
    def _of(cls, body: dict[str, Any]) -> Card:
        body["sampling"], body["rendition"] = Sampling(**body["sampling"]), Rendition(**body["rendition"])
        body["parents"] = tuple(body.get("parents", ()))
        return cls(**body)


def card_of(folder: Path, family: Family, config: Any) -> Card:
    """The card of a folder in the Hugging Face layout; without one, as models of its family are trained.

    Raises:
        RequestError: the card is damaged.
    """
    card = Card.read(folder)
    if (folder / CARD).exists():
        return card
    return replace(card, template=family.template, sampling=Sampling(frames=family.frames(config)))


def original_card(folder: Path, family: Family, config: Any) -> Card:
    """How a checkpoint of the reference was trained: by its own pixels, with images padded or not.

    Raises:
        RequestError: in a way that raypipe does not know.
    """
    aspect = body_of(folder).get("image_aspect_ratio") or "square"
    if aspect not in ("pad", "square"):
        raise RequestError(f"{folder}: image_aspect_ratio is '{aspect}'", "raypipe knows pad and square")
    return Card(
        image_aspect=aspect,
        sampling=Sampling(frames=family.frames(config)),
        rendition=Rendition(short_side=None, codec="lossless"),
        pixels="reference",
    )


def is_original(folder: Path) -> bool:
    """Whether an adapter's keys are the reference's and not raypipe's.

    Raises:
        RequestError: there are no weights.
    """
    files = weight_files(folder, ADAPTER_FILES)
    if not files:
        raise RequestError(f"{folder} has adapter_config.json and no adapter_model", "fetch its weights")
    return not any(".language_model." in key for key in shapes(files))
