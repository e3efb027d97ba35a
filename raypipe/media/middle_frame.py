"""Writes the one frame from the middle of a video, or of a part of it, by SEED-Bench's rules.

Each clip is a decode of its own: a video with many parts is gone through once for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raypipe.media.decode import DecodeRequest
from raypipe.media.sampling import Part
from raypipe.media.sandbox import Sandbox
from raypipe.records import MediumKind, Rejection
from raypipe.settings import DecodeLimits, Rendition, Sampling
from raypipe.store.files import Store

LIMITS = DecodeLimits(timeout_s=600.0, stall_s=60.0)  # an hour of kitchen is two gigabytes of packets
AS_IT_IS = Rendition(short_side=None, codec="lossless")


@dataclass(frozen=True)
class Clip:
    """A video below a folder and the part of it whose middle frame is wanted."""

    folder: Path
    path: str
    part: Part


@dataclass(frozen=True)
class Written:
    """How many frames were written and how many were there before; why the others are not, by name."""

    written: int
    present: int
    refused: Mapping[str, Rejection]


def write_middle_frames(clips: Mapping[str, Clip], store: Store) -> Written:
    """Writes the middle frame of each clip as a PNG file of the video's own size.

    A frame that is there already is left alone. A video that is missing, damaged, or hangs its decoder is
    refused by name, and the others are written all the same. Each file is whole or not there.

    Args:
        clips: by the name to write to.

    Raises:
        ServiceError: the disk refused, or no decoding process can be started.
    """
    written, present = 0, 0
    refused: dict[str, Rejection] = {}
    with Sandbox(LIMITS) as sandbox:
        for name, clip in clips.items():
            if store.exists(name):
                present += 1
                continue
            request = DecodeRequest(
                key=name,
                kind=MediumKind.VIDEO,
                root=str(clip.folder),
                path=clip.path,
                sampling=Sampling(),
                rendition=AS_IT_IS,
                max_pixels=LIMITS.max_pixels,
                middle_of=clip.part,
            )
            found = sandbox.decode(request)
            if isinstance(found, Rejection):
                refused[name] = found
            else:
                store.replace(name, found.frames[0])
                written += 1
    return Written(written, present, refused)
