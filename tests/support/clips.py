"""Draws real little videos, GIFs and images whose frame number can be read back from their colours."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

BITS = 10  # bars of a picture, least significant first
ZERO, ONE = (40, 40, 170), (230, 200, 60)  # colours of a bar


def picture(number: int, size: tuple[int, int] = (80, 48)) -> Image.Image:
    """A picture that shows a number: one upright bar a bit, blue for 0 and yellow for 1."""
    width, height = size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        pixels[:, left:right] = ONE if number >> bit & 1 else ZERO
    return Image.fromarray(pixels)


def number_of(shown: Image.Image | bytes | np.ndarray) -> int:
    """The number that a picture shows, whatever its size and its losses."""
    if isinstance(shown, bytes):
        shown = Image.open(io.BytesIO(shown))
    pixels = np.asarray(shown.convert("RGB") if isinstance(shown, Image.Image) else shown).astype(float)
    width = pixels.shape[1]
    number = 0
    for bit in range(BITS):
        middle = (2 * bit + 1) * width // (2 * BITS)
        bar = pixels[:, max(0, middle - 1) : middle + 2].mean(axis=(0, 1))
        number |= int(np.abs(bar - ONE).sum() < np.abs(bar - ZERO).sum()) << bit
    return number


def write_clip(
    file: Path,
    frames: int = 12,
    size: tuple[int, int] = (80, 48),
    rate: int = 10,
    codec: str = "libx264",
    noise: float = 0.0,
    **options: str,
) -> Path:
    """A video of that many frames, frame n showing the number n; the container follows the suffix.

    Args:
        noise: strength of the grain over the picture, so that the stream has bytes worth damaging.
        options: of the encoder, and ``movflags`` of the container.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    grain = np.random.default_rng(5)
    movflags = options.pop("movflags", None)
    with av.open(str(file), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            pixels = np.asarray(picture(number, size)).astype(float)
            pixels = pixels + noise * grain.normal(size=pixels.shape)
            frame = av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file


def write_times(file: Path, times: list[int], codec: str = "mpeg4", **options: str) -> Path:
    """Frame n shows n and is presented at times[n], in milliseconds."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=100, options=options)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_image(picture(number))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def write_gif(file: Path, frames: int = 9, size: tuple[int, int] = (80, 48), step_ms: int = 80) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [picture(number, size).convert("P") for number in range(frames)]
    first.save(file, save_all=True, append_images=rest, duration=step_ms, loop=0)
    return file


def write_image(file: Path, number: int = 5, size: tuple[int, int] = (80, 48)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(number, size).save(file)
    return file


def all_frames(file: Path) -> list[tuple[float, np.ndarray]]:
    """Every frame by one plain sequential decode: time in seconds from the first, and RGB pixels."""
    with av.open(str(file)) as container:
        found = [(float(f.time), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    return [(time - found[0][0], pixels) for time, pixels in found]


def talk(question: str, answer: str, *more: str) -> list[dict[str, str]]:
    """Turns in the LLaVA format, human first."""
    return [
        {"from": "human" if place % 2 == 0 else "gpt", "value": text}
        for place, text in enumerate([question, answer, *more])
    ]


def write_annotations(root: Path, records: list[Any], name: str = "tune.json") -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(records))
    return name


def data_root(root: Path) -> list[dict[str, Any]]:
    """A small data root with every kind of sample: video, image, several images, both, text only.

    Writes the media and ``tune.json``; returns its eight records.
    """
    for number in range(3):
        write_clip(root / f"clips/c{number}.mp4", frames=9 + number)
        write_image(root / f"pictures/p{number}.png", number)
    write_gif(root / "clips/g.gif")
    records = [
        {"video": "clips/c0.mp4", "conversations": talk("<video>\nWhat moves?", "A bar moves.")},
        {
            "video": "clips/c0.mp4",
            "conversations": talk("<video>\nWhich way?", "To the right.", "Fast?", "No."),
        },
        {"video": "clips/c1.mp4", "conversations": talk("<video>\nHow many bars?", "Ten of them.")},
        {"video": "clips/g.gif", "conversations": talk("<video>\nIs it short?", "Yes.")},
        {"image": "pictures/p0.png", "conversations": talk("<image>\nWhat colour?", "Blue and yellow.")},
        {
            "image": ["pictures/p1.png", "pictures/p2.png"],
            "conversations": talk("<image><image>\nAre they the same?", "No, one bar differs."),
        },
        {
            "video": "clips/c2.mp4",
            "image": "pictures/p0.png",
            "conversations": talk("<video><image>\nDo they match?", "The first frame does."),
        },
        {"conversations": talk("Name a colour.", "Blue.", "Another?", "Yellow.")},
    ]
    write_annotations(root, records)
    return records
