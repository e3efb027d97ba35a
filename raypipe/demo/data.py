"""The demo's drawn data, at the place a dataset's settings name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raypipe.demo.draw import DrawSettings, draw
from raypipe.settings import DrawnData


def draw_data_root(data_root: Path, drawn: DrawnData) -> None:
    """Draws a DATA_ROOT (and the eval tree beside it) unless it is there already."""
    full = DrawSettings()
    counts = {
        name: max(8, round(getattr(full, name) * drawn.scale))
        for name in ("train_clips", "train_images", "heldout_clips", "heldout_images")
    }
    draw(data_root.parent, replace(full, seed=drawn.seed, **counts))
