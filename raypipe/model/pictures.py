"""Frames made ready for a model ahead of it, as bytes: in another process, which needs no torch for it.

A ready frame is a line that says its side and type, and then the numbers of ``Look.frames``. It stands in the
place of an encoded picture, and goes wherever one goes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raypipe.model.pixels import Look
from raypipe.records import MediumKind

_BEGIN = b"raypipe frame "


def ready(look: Look, frames: Sequence[bytes], kind: MediumKind) -> tuple[bytes, ...]:
    """Stored frames as the model takes them; those of a clip that repeats one are one object.

    Raises:
        OSError, ValueError: a frame is no picture.
    """
    made: dict[bytes, bytes] = {}
    for frame in frames:
        if frame not in made:
            (shown,) = look.frames([frame], kind)
            made[frame] = _BEGIN + f"{len(shown)} {shown.dtype.str}\n".encode() + shown.tobytes()
    return tuple(made[frame] for frame in frames)


def is_ready(frames: Sequence[bytes]) -> bool:
    return bool(frames) and frames[0].startswith(_BEGIN)


def loaded(look: Look, frames: Sequence[bytes]) -> np.ndarray:
    """What ``ready`` made, as ``look.frames`` gives it: [N, side, side, 3].

    Raises:
        ValueError: it was made for another model.
    """
    out = look.blank(len(frames))
    expected = _BEGIN + f"{look.side} {out.dtype.str}\n".encode()
    for place, frame in enumerate(frames):
        if not frame.startswith(expected) or len(frame) != len(expected) + out[place].nbytes:
            raise ValueError("a frame was made ready for another model")
        out[place] = np.frombuffer(frame, out.dtype, offset=len(expected)).reshape(out[place].shape)
    return out
