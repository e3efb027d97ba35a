"""Settings of the prepare verb: what is read, which instants are kept, how a frame is stored."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from raypipe.settings.base import Settings, how, later
from raypipe.settings.faults import Unfit


class Sampling(Settings):
    """Which instants of a video are kept.

    ``uniform``: int-truncated linspace over all frames, the reference's rule. ``midpoint``: the middle of
    ``frames`` equal bins. ``fps``: so many a second, at least ``min_frames`` and at most ``max_frames``.
    ``keyframes``: the frames that stand by themselves, at most ``max_frames`` of them.
    """

    policy: Literal["uniform", "midpoint", "fps", "keyframes"] = "uniform"
    frames: int = Field(8, ge=1, le=512)  # of uniform and midpoint
    fps: float = Field(1.0, gt=0, le=1000)
    min_frames: int = Field(4, ge=1, le=4096)
    max_frames: int = Field(64, ge=1, le=4096)

    @pydantic.model_validator(mode="after")
    def _bounds(self) -> Sampling:
        if self.min_frames > self.max_frames:
            raise Unfit("min_frames is larger than max_frames", "raise sampling.max_frames")
        return self


class Rendition(Settings):
    """How a kept frame is stored: scaled so that its shorter side has ``short_side`` pixels.

    Without one a frame keeps its own size: what ``pixels: reference`` of a training stage is meant for.
    """

    short_side: int | None = Field(224, ge=8, le=4096)
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    codec: Literal["jpeg", "lossless"] = "jpeg"
    quality: int = Field(95, ge=1, le=100)
    chroma: Literal["4:4:4", "4:2:0"] = "4:4:4"


class DecodeLimits(Settings):
    """Limits of the decoding child process, per medium.

    ``stall_s``: without a sign of life, while ``timeout_s`` is for all of it.
    """

    timeout_s: float = Field(60.0, gt=0)
    stall_s: float = Field(8.0, gt=0)
    memory_mib: int = Field(4096, ge=512)
    tries: int = Field(2, ge=1, le=5)
    max_pixels: int = 100_000_000


class DrawnData(Settings):
    """Data that raypipe draws itself (the demo's moving shapes) when the data root is not there yet."""

    seed: int = 7
    scale: float = Field(1.0, gt=0, le=10)


class DatasetSettings(Settings):
    """One training source: annotation files, media root, sampling, error budget.

    ``data_root`` is a folder or an address such as ``s3://bucket/prefix``; annotations and media paths are
    below it, and ``*`` and ``?`` in ``annotations`` stand for several files.
    """

    name: str
    source: str = how("")
    licence: str = how("")
    fetch: str = how("")  # in words: where the files are to be had
    data_root: str
    annotations: list[str] = Field(min_length=1)
    reader: Literal["auto", "llava_json", "jsonl", "parquet", "video_chatgpt"] = (
        "auto"  # auto: by file suffix
    )
    media_path: str = "{video_id}.mp4"  # of the video_chatgpt reader: where a video lies below data_root
    decoder: Literal["pyav", "decord"] = "pyav"
    sampling: Sampling = Sampling()
    rendition: Rendition = Rendition()
    media_per_shard: int = Field(64, ge=1)  # videos; an image counts as a sixteenth of one
    out: str = how()
    drawn: DrawnData | None = None
    limit: int | None = later(None, ge=1)  # the first N records of the annotations, to try things out
    reuse: list[str] = how([])  # finished runs whose media need no decoding again
    remove: str | None = how(None)  # a file with a medium's path a line: left out, and its bytes dropped
    retry_quarantined: bool = how(False)  # decode media again that were quarantined before
    error_budget: float = how(0.01, ge=0, le=1)
    limits: DecodeLimits = how(DecodeLimits())
    concurrency: int | None = how(None, ge=1)
