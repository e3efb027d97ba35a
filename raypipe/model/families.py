"""The model families there are. A new architecture is a module with a ``Family`` and its line here."""

from __future__ import annotations

from typing import Any

from raypipe.errors import RequestError, nearest
from raypipe.model.family import Family
from raypipe.model.llava_onevision import LLAVA_ONEVISION
from raypipe.model.video_llava import VIDEO_LLAVA
from raypipe.model.video_llava_hf import VIDEO_LLAVA_HF

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        VIDEO_LLAVA,
        VIDEO_LLAVA_HF,
        LLAVA_ONEVISION,
    )
}


def family_of(config: Any) -> Family:
    """The family of a loaded configuration.

    Raises:
        RequestError: no family knows this architecture.
    """
    for family in FAMILIES.values():
        if family.model_type == config.model_type:
            return family
    raise RequestError(
        f"no model family for architecture '{config.model_type}'",
        nearest(str(config.model_type), [f.model_type for f in FAMILIES.values()]),
    )


def family_named(name: str) -> Family:
    """The family of a name, as ``start.family`` gives it.

    Raises:
        RequestError: there is none.
    """
    if name not in FAMILIES:
        raise RequestError(f"no model family '{name}'", nearest(name, FAMILIES))
    return FAMILIES[name]
