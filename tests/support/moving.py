"""Clips that look like film, for tests of exactness and damage: gradients, a texture and a disc move."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def scene(frames: int, size: tuple[int, int] = (96, 64), grain: float = 6.0) -> Iterator[np.ndarray]:
    """RGB pictures uint8 [height, width, 3] of a moving scene, the same ones every time."""
    width, height = size
    dice = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    texture = dice.normal(size=(height * 2, width * 2)).astype(np.float32)
    for _ in range(3):
        texture = texture + np.roll(texture, 1, 0) + np.roll(texture, 1, 1) + np.roll(texture, -1, 0)
    texture *= 36 / texture.std()
    for number in range(frames):
        waves = (
            np.sin((x + 2 * number) / 37),
            np.sin((y - 1.3 * number) / 29),
            np.cos((x + y + 3 * number) / 51),
        )
        pixels = 128 + 60 * np.stack(waves, -1)
        pixels = pixels + np.roll(texture, (number, 2 * number), (0, 1))[:height, :width, None]
        middle = width / 2 + width / 3 * np.sin(number / 9), height / 2 + height / 3 * np.cos(number / 11)
        disc = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < (height / 6) ** 2
        pixels = np.where(disc[..., None], 255 - pixels, pixels)
        yield (pixels + grain * dice.normal(size=(height, width, 1))).clip(0, 255).astype(np.uint8)


def write_scene(
    file: Path,
    codec: str,
    options: dict[str, str],
    frames: int = 60,
    size: tuple[int, int] = (96, 64),
    pixels: str = "yuv420p",
    rate: int = 24,
    header_first: bool = False,
    setup: Callable[[Any], None] = lambda context: None,
    grain: float = 6.0,
) -> Path:
    """The scene as a video; the container follows the suffix.

    Args:
        header_first: mp4 and mov with the index before the pictures.
        setup: called with the encoder before it opens.
    """
    more = {"movflags": "+faststart"} if header_first else {}
    with av.open(str(file), "w", options=more) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.thread_count = 1
        setup(stream.codec_context)
        for picture in scene(frames, size, grain):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file


def digest(picture: Image.Image) -> bytes:
    return hashlib.blake2b(picture.tobytes(), digest_size=16).digest() + str(picture.size).encode()


def sequential(file: Path) -> list[bytes]:
    """Digests of all frames by one plain decode without any option, in the order of presentation."""
    with av.open(str(file)) as container:
        container.streams.video[0].thread_type = "NONE"
        found = [(frame.pts, digest(frame.to_image())) for frame in container.decode(video=0)]
    times = [time for time, _ in found]
    if None not in times and len(set(times)) == len(times):
        found.sort()
    return [shown for _, shown in found]
