"""What a stored frame costs and loses, by codec, quality, chroma and short side."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bench import drawn, kernels
from raypipe.media.rendition import scaled_size

SIDES = (224, 336)
TURNS = 5


class Choice(NamedTuple):
    """A way to store a frame: what PIL is asked for."""

    codec: str
    quality: int | None
    chroma: str
    options: dict[str, Any]


CHOICES = (
    *(
        Choice("JPEG", quality, chroma, {"quality": quality, "subsampling": sub})
        for quality in (85, 90, 95, 98)
        for chroma, sub in (("4:2:0", 2), ("4:4:4", 0))
    ),
    *(Choice("WEBP", quality, "4:2:0", {"quality": quality, "method": 4}) for quality in (85, 95)),
    Choice("WEBP", None, "lossless", {"lossless": True, "method": 0}),
    Choice("PNG", None, "lossless", {"compress_level": 1}),
)


def table() -> list[dict[str, Any]]:
    """One row a choice: bytes a frame, milliseconds to encode and decode, error against lossless."""
    pictures, clips = _pictures()
    rows = []
    for side in SIDES:
        small = [p.resize(scaled_size(*p.size, side), Image.Resampling.BICUBIC) for p in pictures]
        for choice in CHOICES:
            rows.append(
                {"short_side": side, "frames": len(small), "clips": clips, **_measured(choice, small)}
            )
    return rows


def _pictures() -> tuple[list[Image.Image], int]:
    """The eight uniform frames of every real clip whose short side is at least the largest asked for."""
    found, clips = [], 0
    for file in drawn.real_videos():
        frames = [Image.fromarray(np.asarray(f)) for f in _frames(file)]
        if frames and min(frames[0].size) >= min(SIDES):
            found += frames
            clips += 1
    if not found:  # without reference data: drawn frames, and the table says so by its clips
        found = [Image.fromarray(np.asarray(f)) for f in kernels.raypipe(drawn.MIX[1].file())]
    return found, clips


def _frames(file: Any) -> list[Any]:
    return kernels.raypipe(file)


def _measured(choice: Choice, pictures: list[Image.Image]) -> dict[str, Any]:
    stored = [_encode(choice, p) for p in pictures]
    errors = [
        np.asarray(p, np.int16) - np.asarray(_decode(s), np.int16)
        for p, s in zip(pictures, stored, strict=True)
    ]
    squares = [float((e.astype(np.float64) ** 2).mean()) for e in errors]
    psnr = (
        None if not any(squares) else round(float(np.mean([10 * np.log10(255**2 / s) for s in squares])), 1)
    )
    return {
        "codec": choice.codec.lower(),
        "quality": choice.quality,
        "chroma": choice.chroma,
        "bytes": round(float(np.mean([len(s) for s in stored]))),
        "encode_ms": _ms(lambda: [_encode(choice, p) for p in pictures], len(pictures)),
        "decode_ms": _ms(lambda: [_decode(s) for s in stored], len(pictures)),
        "mean_absolute_error": round(float(np.mean([np.abs(e).mean() for e in errors])), 3),
        "largest_error": int(max(np.abs(e).max() for e in errors)),
        "psnr_db": psnr,
    }


def _encode(choice: Choice, picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, choice.codec, **choice.options)
    return out.getvalue()


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def _ms(work: Callable[[], object], count: int) -> float:
    """The median of some turns, in CPU milliseconds a frame."""
    work()
    taken = []
    for _ in range(TURNS):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return round(float(np.median(taken)) / count * 1e3, 3)


def page(rows: list[dict[str, Any]], facts: dict[str, Any]) -> Iterator[str]:
    """The table as Markdown lines."""
    clips = rows[0]["clips"]
    yield "# What a stored frame costs and loses"
    yield ""
    source = f"{rows[0]['frames']} frames of {clips} real clips" if clips else "frames of one drawn clip"
    yield f"{facts['date']}, `{facts['command']}`, {facts['cpu']}, Pillow {facts['pillow']}."
    yield f"{source}, scaled with the bicubic filter; milliseconds are CPU time a frame; the error is against"
    yield "the scaled frame before encoding, in steps of 255, over all three channels."
    for side in SIDES:
        yield ""
        yield f"## Short side {side}"
        yield ""
        yield "| codec | quality | chroma | bytes | encode ms | decode ms | mean error | largest | PSNR dB |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for row in (r for r in rows if r["short_side"] == side):
            cells = [row[k] for k in ("codec", "quality", "chroma", "bytes", "encode_ms", "decode_ms")]
            cells += [row[k] for k in ("mean_absolute_error", "largest_error", "psnr_db")]
            yield "| " + " | ".join("-" if c is None else str(c) for c in cells) + " |"
