"""Clips drawn for measuring: panned textures, moving patches, grain and cuts; kept in a cache folder.

They are drawn once (a few minutes for all of them), from a seed, and named by what they are.
"""

from __future__ import annotations

import os
import struct
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import av
import numpy as np

RATE = 25
SCENE_S = 5
_VERSION = 3  # raised when what is drawn changes: the names in the cache hold it


def cache_folder() -> Path:
    """RAYPIPE_BENCH_CACHE, or a folder below the system's temporary one."""
    named = os.environ.get("RAYPIPE_BENCH_CACHE")
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "raypipe-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Drawn:
    """One clip: picture size, seconds, codec and its options."""

    name: str
    size: tuple[int, int]
    seconds: float
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    suffix: str = "mp4"

    def file(self) -> Path:
        """The clip, drawn when it is not there yet."""
        width, height = self.size
        file = (
            cache_folder()
            / f"v{_VERSION}-{self.name}-{width}x{height}-{self.seconds:g}s-{self.seed}.{self.suffix}"
        )
        if not file.exists():
            temporary = file.with_name(f".{os.getpid()}-{file.name}")
            _draw(self, temporary)
            temporary.replace(file)
        return file


def h264(gop: int, b: int = 3, **more: str) -> dict[str, str]:
    """x264 as it comes, but a keyframe every ``gop`` frames and nowhere else, and ``b`` B-frames at most."""
    return {"preset": "medium", "crf": "23", "g": str(gop), "sc_threshold": "0", "bf": str(b), **more}


LONG = Drawn("h264-b-gop250", (1280, 720), 60, options=h264(250))
SHORT_GOP = Drawn("h264-b-gop30", (1280, 720), 60, options=h264(30))
KINDS = (
    LONG,
    SHORT_GOP,
    Drawn("h264-b-gop250", (1280, 720), 20, options=h264(250), seed=1),
    Drawn("h264-b-gop250", (640, 360), 12, options=h264(250), seed=2),
    Drawn("h264-nob-gop250", (1280, 720), 20, options=h264(250, 0), seed=3),
    Drawn("h264-nob-gop30", (854, 480), 30, options=h264(30, 0), seed=4),
    Drawn("h264-b-gop60", (854, 480), 40, options=h264(60), seed=5, suffix="mkv"),
    Drawn("hevc-b-gop250", (1280, 720), 10, "libx265", {"preset": "ultrafast", "bf": "3"}, 6),
    Drawn("hevc-b-gop250", (640, 360), 30, "libx265", {"preset": "ultrafast", "bf": "3"}, 7),
    Drawn(
        "vp9", (640, 360), 30, "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "1M"}, 8, "webm"
    ),
    Drawn("mpeg4", (854, 480), 30, "mpeg4", {"b": "2M", "g": "60"}, 9, "avi"),
)
# For the figures to shards: mostly long 720p, some short.
MIX = (LONG, KINDS[2], Drawn("h264-b-gop250", (1280, 720), 40, options=h264(250), seed=10), KINDS[3])
SMALL = tuple(Drawn("h264-small", (320, 180), 4, options=h264(50), seed=20 + n) for n in range(5))
FOR_TRAINING = tuple(Drawn("h264-train", (400, 300), 4, options=h264(50), seed=40 + n) for n in range(5))
FOUR_K = Drawn("h264-4k", (3840, 2160), 60 / RATE, options=h264(60, preset="ultrafast"), seed=30)


def folder_of(files: list[Path], count: int, name: str) -> list[Path]:
    """``count`` copies of the files in turn, each with other bytes (a free box at its end), in a folder."""
    folder = cache_folder() / f"v{_VERSION}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for number in range(count):
        source = files[number % len(files)]
        copy = folder / f"{number:04d}{source.suffix}"
        if not copy.exists():
            copy.write_bytes(source.read_bytes() + struct.pack(">I4sQ", 16, b"free", number))
        out.append(copy)
    return out


def two_hours() -> Path:
    """Two hours of 640x360 with a GOP of 250: one drawn minute, its packets written 120 times."""
    file = cache_folder() / f"v{_VERSION}-two-hours.mp4"
    if file.exists():
        return file
    minute = Drawn("h264-b-gop250", (640, 360), 60, options=h264(250, crf="30"), seed=31).file()
    temporary = file.with_name(f".{os.getpid()}-{file.name}")
    with av.open(str(minute)) as source, av.open(str(temporary), "w") as sink:
        video = source.streams.video[0]
        stream = sink.add_stream_from_template(video)
        length = round(60 / video.time_base)
        for turn in range(120):
            source.seek(0)
            for packet in source.demux(video):
                if packet.dts is None:
                    continue
                packet.pts, packet.dts = packet.pts + turn * length, packet.dts + turn * length
                packet.stream = stream
                sink.mux(packet)
    temporary.replace(file)
    return file


def footage(gop: int) -> Path | None:
    """60 s of 1280x720 from the first real clip, forwards and backwards in turn; None where there is none.

    Drawn grain moves nowhere: it leaves encoders less to predict than cameras do.
    """
    source = next((f for f in real_videos() if f.suffix == ".mp4"), None)
    if source is None:
        return None
    file = cache_folder() / f"v{_VERSION}-footage-b-gop{gop}-1280x720-60s-{source.stem}.mp4"
    if file.exists():
        return file
    with av.open(str(source)) as real:
        frames = [f.reformat(1280, 720, "yuv420p") for f in real.decode(video=0)]
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    temporary = file.with_name(f".{os.getpid()}-{file.name}")
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=h264(gop))
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(60 * RATE):
            frame = av.VideoFrame.from_ndarray(frames[order[number % len(order)]].to_ndarray(), "yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    temporary.replace(file)
    return file


def _draw(clip: Drawn, file: Path) -> None:
    width, height = clip.size
    rng = np.random.default_rng(clip.seed)
    grain = rng.integers(0, 7, (8, height, width), dtype=np.uint8)
    with av.open(str(file), "w") as container:
        stream = container.add_stream(clip.codec, rate=RATE, options=clip.options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        scene: list[np.ndarray] = []
        for number in range(round(clip.seconds * RATE)):
            step = number % (SCENE_S * RATE)
            if step == 0:
                scene = _scene(rng, width, height)
            frame = _frame(scene, step, width, height, grain[number % 8])
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _scene(rng: np.random.Generator, width: int, height: int) -> list[np.ndarray]:
    """A texture a plane (Y, U, V), wider and higher than the picture by a quarter, and a patch."""
    planes = []
    for scale in (1, 2, 2):
        w, h = (width + width // 4) // scale, (height + height // 4) // scale
        total = np.zeros((h, w), np.float32)
        for cells, weight in ((3, 60.0), (12, 30.0), (60, 12.0)):
            small = rng.random((cells + 2, cells + 2), dtype=np.float32) - 0.5
            rows, columns = np.linspace(0, cells, h), np.linspace(0, cells, w)
            total += weight / (1 if scale == 1 else 1.5) * _bilinear(small, rows, columns)
        planes.append((total + 125).clip(16, 225).astype(np.uint8))
    return [*planes, rng.integers(16, 225, (height // 5, width // 5), dtype=np.uint8)]


def _bilinear(grid: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    r, c = rows.astype(int), columns.astype(int)
    y, x = (rows - r)[:, None].astype(np.float32), (columns - c)[None].astype(np.float32)
    top = grid[np.ix_(r, c)] * (1 - x) + grid[np.ix_(r, c + 1)] * x
    bottom = grid[np.ix_(r + 1, c)] * (1 - x) + grid[np.ix_(r + 1, c + 1)] * x
    return top * (1 - y) + bottom * y


def _frame(scene: list[np.ndarray], step: int, width: int, height: int, grain: np.ndarray) -> av.VideoFrame:
    part = step / (SCENE_S * RATE)
    x, y = int(part * (width // 4)) // 2 * 2, int(part * part * (height // 4)) // 2 * 2
    luma = scene[0][y : y + height, x : x + width] + grain
    patch = scene[3]
    left, top = int((width - patch.shape[1]) * part), int(height * 0.3 + 0.2 * height * np.sin(8 * part))
    luma[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    chroma = [p[y // 2 : y // 2 + height // 2, x // 2 : x // 2 + width // 2] for p in scene[1:3]]
    if width % 2 or height % 2:
        raise ValueError("drawn clips have even sides")
    data = np.concatenate([luma.ravel(), *(c.ravel() for c in chroma)]).reshape(height * 3 // 2, width)
    return av.VideoFrame.from_ndarray(data, format="yuv420p")


@cache
def real_videos() -> tuple[Path, ...]:
    """The videos of the reference data, each content once; none where it is absent."""
    root = Path(__file__).resolve().parents[1]
    base = Path(os.environ.get("RAYPIPE_REFERENCE_DATA", root.parent / "shared" / "data"))
    folder = Path(os.environ.get("RAYPIPE_REAL", base / "real"))
    kinds = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".gif")
    files = sorted(p for p in folder.rglob("*") if p.suffix in kinds) if folder.is_dir() else []
    return tuple({p.read_bytes(): p for p in reversed(files)}.values())
