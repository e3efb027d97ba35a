"""The outline of a model in a folder or of parts, whatever their layout; no weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypipe.errors import RequestError
from raypipe.model.facts import shapes_in
from raypipe.model.layouts import (
    Layout,
    body_of,
    folder_of,
    layout_of,
    tower_body,
    towers_named,
    vision_body,
    weight_files,
)
from raypipe.model.near import bytes_to_fetch
from raypipe.model.outline import Outline, assembled_outline, outline_of
from raypipe.model.pieces import FRAMES
from raypipe.settings import StartParts

OVER_TIME = "encoder.layers.0.temporal_embedding"


def folder_outline(path: str, base: str | None = None) -> tuple[Outline, Path]:
    """The outline of what ``load_model`` would load, an adapter left out; and the folder of its tokenizer.

    Raises:
        RequestError: no model, one at an address that is not fetched yet, or of unknown shapes.
    """
    folder = _here(path)
    layout = layout_of(folder)
    if layout in (Layout.ADAPTER, Layout.PROJECTOR):
        if base is None:
            raise RequestError(f"{folder} is {layout}", "name the model it was trained over: model_base=...")
        under = _here(base)
        if layout_of(under) is not Layout.LANGUAGE_MODEL:
            return folder_outline(base)
        return _assembled(under, *towers_named(body_of(folder), folder))
    if layout is Layout.ORIGINAL:
        body = body_of(folder)
        image, video = (tower_body(body, kind, folder) for kind in ("image", "video"))
        own = "model.video_tower.video_tower."
        shapes = {k.removeprefix(own): s for k, s in shapes_in(weight_files(folder)).items()}
        return _joined(body, image, video, shapes), folder
    if layout is not Layout.HF:
        raise RequestError(f"{folder} holds {layout}", "put a model together of its parts: start.parts")
    return outline_of(body_of(folder)), folder


def parts_outline(parts: StartParts) -> tuple[Outline, Path]:
    """The outline of what ``from_parts`` would put together; and the folder of its tokenizer.

    Raises:
        RequestError: as ``folder_outline``.
    """
    return _assembled(*(_here(name) for name in (parts.language_model, parts.image_tower, parts.video_tower)))


def _assembled(text: Path, image: Path, video: Path) -> tuple[Outline, Path]:
    shapes = {k.removeprefix("vision_model."): s for k, s in shapes_in(weight_files(video)).items()}
    return _joined(body_of(text), vision_body(image), vision_body(video), shapes), text


def _joined(
    body: dict[str, Any], image: dict[str, Any], video: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> Outline:
    """Whether the video tower attends over time its weights say, and where they do not, its configuration."""
    text = {name: value for name, value in body.items() if name != "model_type" and value is not None}
    found = shapes.get(OVER_TIME)
    temporal = bool(found or video.get("add_time_attn") or video.get("temporal"))
    frames = found[1] if found and len(found) == 3 else int(video.get("num_frames") or FRAMES)
    return assembled_outline(text, image, video, temporal=temporal, frames=frames)


def _here(path: str) -> Path:
    """The folder of a model; one at an address is not fetched for a plan."""
    if "://" in path and (count := bytes_to_fetch(path)):
        raise RequestError(
            f"{path} is not on this machine yet ({count / 2**30:.1f} GiB)",
            "its shapes are known once a run has fetched it",
        )
    return folder_of(path)
