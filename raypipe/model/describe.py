"""What a model is, without its weights in memory: how it was trained, and a name made from its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypipe.model import original
from raypipe.model.build import asked_for, hf_config, parts_below
from raypipe.model.cards import Card, card_of, is_original, original_card
from raypipe.model.families import family_of
from raypipe.model.family import Family
from raypipe.model.layouts import Layout, folder_of
from raypipe.model.pixels import Look
from raypipe.records import fingerprint
from raypipe.settings import Sampling, StartParts
from raypipe.store.digests import digest_of


def describe_model(path: str, base: str | None = None) -> tuple[Card, str]:
    """The card and the fingerprint of a model that ``load_model`` takes.

    Returns:
        the card that the loaded model has (template, pixels, sampling), and ``weights_fingerprint``.

    Raises:
        RequestError: as ``load_model``, as far as it shows without reading weights.
    """
    return model_card(path, base), weights_fingerprint(path, base)


def model_card(path: str, base: str | None = None) -> Card:
    """The card alone, which is quick: for the fingerprint all weights are read once.

    Raises:
        RequestError: as ``describe_model``.
    """
    return _described(path, base)[0]


def model_family(path: str, base: str | None = None) -> Family:
    """The family alone.

    Raises:
        RequestError: as ``describe_model``.
    """
    return family_of(_described(path, base)[1])


def model_look(path: str, base: str | None = None) -> Look:
    """How media are shown to a model, to make frames ready ahead of it.

    Raises:
        RequestError: as ``describe_model``.
    """
    card, config = _described(path, base)
    family = family_of(config)
    return Look(family.side(config), card.image_aspect, card.pixels, family.mean, family.std)


def weights_fingerprint(path: str, base: str | None) -> str:
    """Names a model by the content of its folders (sizes and hashes of their files), not by their paths.

    Over a language model alone the towers count, too: they are part of what answers.
    """
    folder = folder_of(path)
    folders = [folder, *([folder_of(base)] if base else [])]
    if (folder / "config.json").exists():
        below = parts_below(folder, base)
        folders += [Path(below.image_tower), Path(below.video_tower)] if below else []
    files = [file for one in folders for file in sorted(p for p in one.iterdir() if p.is_file())]
    return fingerprint([(file.name, file.stat().st_size, digest_of(file)) for file in files])


def _described(path: str, base: str | None) -> tuple[Card, Any]:
    """The card and the configuration."""
    folder, layout = asked_for(path, base)
    if layout is Layout.HF:
        config = hf_config(folder)
        return card_of(folder, family_of(config), config), config
    if layout is Layout.ORIGINAL:
        config = original.whole_config(folder)
        return original_card(folder, family_of(config), config), config
    parts = parts_below(folder, base)
    card, config = _assembled(parts) if parts else _described(str(base), None)
    if layout is Layout.ADAPTER and not is_original(folder):
        return Card.read(folder), config
    if (folder / "config.json").exists():
        card = original_card(folder, family_of(config), config)
    return card, config


def _assembled(parts: StartParts) -> tuple[Card, Any]:
    text, image, video = (
        folder_of(name) for name in (parts.language_model, parts.image_tower, parts.video_tower)
    )
    config = original.parts_config(text, image, video)
    return Card(sampling=Sampling(frames=config.video_config.num_frames)), config
