"""Eight uniform frames of a video as full-size RGB: raypipe's kernel and its peers, each in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np

from raypipe.media.decode import DecodeRequest
from raypipe.media.sampling import positions
from raypipe.records import MediumKind
from raypipe.settings import Rendition, Sampling

FRAMES = 8
Kernel = Callable[[Path], list[Any]]


def raypipe(file: Path) -> list[Any]:
    """What a prepare run's child does up to the pictures."""
    try:
        from raypipe.media.video import read_video
    except ImportError:
        from raypipe.media.decode import read_video
    request = DecodeRequest(
        key="k",
        kind=MediumKind.VIDEO,
        root=str(file.parent),
        path=file.name,
        sampling=Sampling(frames=FRAMES),
        rendition=Rendition(),
    )
    return [p[2] if isinstance(p, tuple) else p.image for p in read_video(file, request)]


def decord_batch(file: Path) -> list[Any]:
    """decord, one thread, all frames at once."""
    reader = decord.VideoReader(str(file), ctx=decord.cpu(0), num_threads=1)
    return list(reader.get_batch(list(_wanted(len(reader)))).asnumpy())


def pyav_sequential(file: Path) -> list[Any]:
    """PyAV, every frame decoded up to the last one that is wanted."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        count = sum(1 for packet in container.demux(stream) if packet.size)
    wanted = _wanted(count)
    with av.open(str(file)) as container:
        stream = _one_thread(container)
        found = {}
        for place, frame in enumerate(container.decode(stream)):
            if place in wanted:
                found[place] = frame.to_ndarray(format="rgb24")
            if place == wanted[-1]:
                break
    return [found[p] for p in wanted]


def pyav_seek(file: Path) -> list[Any]:
    """PyAV, from the nearest keyframe before each wanted frame on, no frame in between left out."""
    with av.open(str(file)) as container:
        stream = _one_thread(container)
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None]
        times = sorted(pts for pts, _ in packets)
        keys = np.array(sorted(pts for pts, key in packets if key))
        found: dict[int, Any] = {}
        frames: Any = None
        reached = -1
        for place in _wanted(len(times)):
            key = int(keys[max(0, int(keys.searchsorted(times[place], side="right")) - 1)])
            if frames is None or key > reached:
                container.seek(key, stream=stream)
                frames = container.decode(stream)
            while place not in found and (frame := next(frames, None)) is not None:
                reached = frame.pts
                if reached == times[place]:
                    found[place] = frame.to_ndarray(format="rgb24")
    return list(found.values())


def torchcodec_batch(file: Path) -> list[Any]:
    """torchcodec, exact seeks, one thread."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(file), num_ffmpeg_threads=1)
    return list(decoder.get_frames_at(list(_wanted(len(decoder)))).data.numpy())


def peers() -> dict[str, Kernel]:
    """The peers that are installed, by name."""
    found: dict[str, Kernel] = {
        "decord get_batch": decord_batch,
        "PyAV sequential": pyav_sequential,
        "PyAV seek": pyav_seek,
    }
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return found
    return {**found, "torchcodec": torchcodec_batch}


def difference(a: list[Any], b: list[Any]) -> float:
    """The largest mean absolute difference of two arms' frames, in steps of 255; both must show the same."""
    if len(a) != FRAMES or len(b) != FRAMES:
        raise AssertionError(f"{len(a)} and {len(b)} frames")
    pairs = [
        (np.asarray(x).astype(np.int16), np.asarray(y).astype(np.int16)) for x, y in zip(a, b, strict=True)
    ]
    return max(float(np.abs(x - y).mean()) for x, y in pairs)


def _wanted(count: int) -> tuple[int, ...]:
    return positions(count, Sampling(frames=FRAMES))


def _one_thread(container: Any) -> Any:
    stream = container.streams.video[0]
    stream.thread_type = "SLICE"
    stream.codec_context.thread_count = 1
    return stream
