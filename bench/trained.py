"""Prepared data for the training figures: drawn pictures and clips, texts of very different lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import drawn
from raypipe.prepare.run import prepare
from raypipe.settings import DatasetSettings, Rendition

WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "bar",
    "moves",
    "over",
    "under",
    "then",
    "now",
    "slowly",
    "two",
    "birds",
    "of",
]
_VERSION = 2


def mixed(count: int = 600) -> Path:
    """A finished prepare run: images, clips and texts in turn, answers of 2 to 300 words (log-normal)."""
    return _run("mixed", count, Rendition(short_side=28), ("image", "video", "text"), spread=1.1)


def clips(count: int = 192) -> Path:
    """A finished prepare run of clips alone, 8 JPEG frames of 224 pixels each, short answers."""
    return _run("clips", count, Rendition(), ("video",), spread=0.3)


def long_texts(count: int = 96) -> Path:
    """A finished prepare run of texts alone, each longer than 4,096 tokens."""
    return _run("texts", count, Rendition(), ("text",), spread=0.0, words=5000)


def _run(
    name: str, count: int, rendition: Rendition, kinds: tuple[str, ...], spread: float, words: int = 0
) -> Path:
    root = drawn.cache_folder() / f"train-v{_VERSION}-{name}-{count}"
    out = root / "run"
    if (out / "commit.json").exists():
        return out
    rng = np.random.default_rng(5)
    sources = [k.file() for k in drawn.FOR_TRAINING]
    records: list[dict[str, Any]] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        record: dict[str, Any] = {"id": str(number)}
        if kind == "image":
            record["image"] = f"{number}.jpg"
            _picture(root / "data" / f"{number}.jpg", rng)
        elif kind == "video":
            record["video"] = f"{number}.mp4"
            copy = root / "data" / f"{number}.mp4"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(sources[number % len(sources)].read_bytes() + number.to_bytes(8, "big") * 2)
        length = words or int(np.clip(rng.lognormal(3.3, spread), 2, 300))
        tag = "" if kind == "text" else f"<{kind}>\n"
        record["conversations"] = [
            {"from": "human", "value": f"{tag}What is there?"},
            {"from": "gpt", "value": " ".join(rng.choice(WORDS, length))},
        ]
        records.append(record)
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "data" / "bench.json").write_text(json.dumps(records))
    settings = DatasetSettings(
        name=name,
        data_root=str(root / "data"),
        annotations=["bench.json"],
        out=str(out),
        rendition=rendition,
    )
    prepare(settings, execute=lambda units, work: map(work, units))
    return out


def _picture(file: Path, rng: np.random.Generator) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    small.resize((320, 240), Image.Resampling.BICUBIC).save(file, quality=90)
