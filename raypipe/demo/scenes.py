"""Scenes of one coloured shape, and their pictures: what the demo's clips and images show.

A clip has ``CLIP_FRAMES`` frames of ``SIDE`` x ``SIDE`` pixels at ``FPS`` frames a second.  The
platform samples ``SAMPLED`` of them, at ``int(linspace(0, CLIP_FRAMES - 1, SAMPLED))``, which
is every third frame.  A clip shows one, two or three scenes, one after the other: the shape goes
on, the backdrop is cut to another one.  Every scene covers at least two sampled frames, and which
backdrops a clip has and in which order is drawn uniformly, so that one frame shows each backdrop
with the same probability however many scenes there are: no single frame answers "How many scenes
does the video have?", and one frame repeated always looks like one scene.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from PIL import Image

SIDE = 64  # pixels, width and height of every clip and image
FPS = 8  # frames a second
CLIP_FRAMES = 22  # 7 * 3 + 1: the sampled instants fall on every third frame
SAMPLED = 8  # frames the platform samples from a clip

COLOURS: dict[str, tuple[int, int, int]] = {  # RGB, 0..255
    "red": (225, 35, 35),
    "green": (35, 185, 50),
    "blue": (45, 70, 235),
    "yellow": (235, 220, 40),
}
ASKED = ("red", "blue")  # the colours of yes/no questions: matching four is slow to learn
BACKDROPS = ((22, 22, 32), (230, 230, 232), (170, 110, 170))  # RGB: night, snow, dusk
SHAPES = ("circle", "square", "triangle")
COUNTS = ("one", "two", "three")  # scenes of a clip
SIZES = {"big": (19.5, 21.0), "small": (9.0, 10.0)}  # radius range, pixels
REACH = (22.0, 42.0)  # pixels, where the shape's centre may be along either axis


@dataclass(frozen=True)
class Scene:
    """One clip or image: what is shown, and the seed of everything that no question asks for."""

    name: str
    shape: str
    colour: str
    size: str
    scenes: str
    seed: int


def make_scenes(prefix: str, count: int, seed: int, colours: Sequence[str] = tuple(COLOURS)) -> list[Scene]:
    """``count`` scenes named ``prefix_000``...; scene counts, sizes and colours are each balanced."""
    rng = random.Random(f"{seed}/{prefix}")  # noqa: S311 - drawing, not secrets

    def balanced(values: Sequence[str]) -> list[str]:
        column = [values[index % len(values)] for index in range(count)]
        rng.shuffle(column)
        return column

    columns = zip(balanced(SHAPES), balanced(colours), balanced(list(SIZES)), balanced(COUNTS), strict=True)
    return [
        Scene(f"{prefix}_{index:03d}", *labels, seed=rng.getrandbits(32))
        for index, labels in enumerate(columns)
    ]


def frame_backdrops(count: int, rng: np.random.Generator) -> np.ndarray:
    """Which of ``BACKDROPS`` each frame shows, int (CLIP_FRAMES,), in a clip of ``count`` scenes."""
    order = rng.permutation(len(BACKDROPS))[:count]
    lengths = np.full(count, 2)  # in sampled frames
    for _ in range(SAMPLED - 2 * count):
        lengths[rng.choice(np.flatnonzero(lengths == lengths.min()))] += 1
    step = (CLIP_FRAMES - 1) // (SAMPLED - 1)
    nearest = (np.arange(CLIP_FRAMES) + step // 2) // step  # the sampled frame next to each frame
    return np.repeat(order, lengths)[nearest]


def centres(rng: np.random.Generator) -> np.ndarray:
    """The shape's centre (x, y) in every frame, drifting, pixels, float (CLIP_FRAMES, 2)."""
    ends = rng.uniform(*REACH, size=(2, 2))
    return ends[0] + np.linspace(0.0, 1.0, CLIP_FRAMES)[:, None] * (ends[1] - ends[0])


def shape_mask(scene: Scene, centre: np.ndarray, radius: float) -> np.ndarray:
    """Where the shape is, bool (frames, SIDE, SIDE), for centres (frames, 2) and a pixel radius."""
    grid = np.arange(SIDE) + 0.5
    dx = np.abs(grid[None, None, :] - centre[:, 0, None, None])
    dy = grid[None, :, None] - centre[:, 1, None, None]
    if scene.shape == "circle":
        return dx**2 + dy**2 <= radius**2
    if scene.shape == "square":
        return np.maximum(dx, np.abs(dy)) <= 0.89 * radius
    height = 1.2 * radius  # an upright triangle, apex at -height, base at +height
    return (np.abs(dy) <= height) & (dx <= (dy + height) / 1.6)


def render(scene: Scene, still_image: bool = False) -> np.ndarray:
    """The scene's frames, uint8 RGB (CLIP_FRAMES or 1, SIDE, SIDE, 3)."""
    rng = np.random.default_rng(scene.seed)
    centre = centres(rng)
    shown = frame_backdrops(COUNTS.index(scene.scenes) + 1, rng)
    if still_image:
        centre, shown = centre[:1], shown[:1]
    ramp = np.linspace(-1.0, 1.0, SIDE)
    slope = rng.uniform(-5.0, 5.0, size=2)
    noise = rng.normal(0.0, 3.0, size=(SIDE, SIDE, 3))
    texture = (slope[0] * ramp[None, :] + slope[1] * ramp[:, None])[:, :, None] + noise
    tint = rng.uniform(-6.0, 6.0, size=(len(BACKDROPS), 3))
    ground = (np.asarray(BACKDROPS) + tint).astype(np.float32)[shown][:, None, None, :] + texture.astype(
        np.float32
    )
    colour = np.asarray(COLOURS[scene.colour]) + rng.uniform(-8.0, 8.0, size=3)
    mask = shape_mask(scene, centre, float(rng.uniform(*SIZES[scene.size])))
    painted = (colour + 0.5 * noise).astype(np.float32)
    return np.clip(np.where(mask[..., None], painted, ground), 0, 255).astype(np.uint8)


def encode_clip(frames: np.ndarray) -> bytes:
    """An H.264 MP4 of uint8 RGB frames (count, height, width, 3) at ``FPS``."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"crf": "16", "preset": "ultrafast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def encode_image(frame: np.ndarray) -> bytes:
    """A PNG of one uint8 RGB frame (height, width, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG")
    return buffer.getvalue()
