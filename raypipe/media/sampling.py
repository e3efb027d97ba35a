"""Which frames of a video are kept: pure functions from counts and times to positions."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from raypipe.media.fault import MediumError
from raypipe.records import Reason
from raypipe.settings import Sampling

# What is looked at, and where it begins and ends: all of a video, seconds, or positions of frames.
Part = tuple[Literal["whole", "seconds", "frames"], float, float]


def positions(count: int, sampling: Sampling) -> tuple[int, ...]:
    """The positions (0-based, in presentation order) kept of a video of ``count`` frames.

    ``uniform`` is the rule of Video-LLaVA's video processor: ``linspace(0, count - 1, frames)`` truncated
    toward zero, so the first and the last frame are always kept and a short video repeats frames.
    ``midpoint`` takes the middle of each of ``frames`` equal bins.

    >>> positions(243, Sampling())
    (0, 34, 69, 103, 138, 172, 207, 242)
    """
    if count < 1:
        raise ValueError("a video without frames has no positions")
    if sampling.policy not in ("uniform", "midpoint"):
        raise ValueError(f"{sampling.policy} needs the times of the frames")
    if sampling.policy == "uniform":
        chosen = np.linspace(0, count - 1, sampling.frames).astype(int)
    else:
        chosen = ((np.arange(sampling.frames) + 0.5) * count / sampling.frames).astype(int)
    return tuple(int(i) for i in np.clip(chosen, 0, count - 1))


def choose(times: np.ndarray, keys: np.ndarray, sampling: Sampling) -> tuple[int, ...]:
    """The positions kept by any policy.

    ``fps`` takes the frame on show at each instant k / fps after the first frame, up to the time of the last
    frame; a frame on show at several instants is kept once. Are they more than ``max_frames``, or fewer than
    ``min_frames``, then so many instants are spread evenly over the clip instead, first and last frame
    included; only for ``min_frames`` may a frame repeat. ``keyframes`` takes the frames that stand by
    themselves; more than ``max_frames`` are thinned evenly, the first and the last kept.

    Args:
        times: float64 [frames], seconds, rising, in presentation order.
        keys: bool [frames], True where decoding can start.

    >>> choose(np.array([0.0, 0.4, 1.0, 1.9, 3.1]), np.ones(5, bool), Sampling(policy="fps", fps=1))
    (0, 2, 3, 4)
    """
    if sampling.policy in ("uniform", "midpoint"):
        return positions(len(times), sampling)
    if len(times) < 1:
        raise ValueError("a video without frames has no positions")
    if sampling.policy == "keyframes":
        chosen = np.flatnonzero(keys)
        chosen = chosen if len(chosen) else np.zeros(1, int)
        if len(chosen) > sampling.max_frames:
            chosen = chosen[np.linspace(0, len(chosen) - 1, sampling.max_frames).round().astype(int)]
        return tuple(int(i) for i in chosen)
    return tuple(int(i) for i in _at_rate(np.asarray(times, float) - times[0], sampling))


def _at_rate(times: np.ndarray, sampling: Sampling) -> np.ndarray:
    span = times[-1]
    instants = np.arange(int(min(span * sampling.fps + 1e-6, 1e7)) + 1) / sampling.fps
    chosen = np.unique(_on_show(times, instants))
    if len(chosen) > sampling.max_frames:
        return np.unique(_on_show(times, np.linspace(0, span, sampling.max_frames)))
    if len(chosen) < sampling.min_frames:
        return _on_show(times, np.linspace(0, span, sampling.min_frames))
    return chosen


def _on_show(times: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """The last frame whose time is not after the instant (to a microsecond: times are rounded fractions)."""
    return np.clip(np.searchsorted(times, instants + 1e-6, side="right") - 1, 0, len(times) - 1)


def middle_position(count: int, rate: float, part: Part) -> int:
    """The position (0-based, in presentation order) of the middle frame, as SEED-Bench's script finds it.

    It is ``int((n - 1) / 2)`` frames past the begin: n is the last position for a whole video, and end minus
    begin for a part. Seconds are cut to positions at the stream's average rate and held at the last one; of
    positions only the end is held, at the number of frames. A part too short for a frame is its begin.

    Args:
        count: frames of the video.
        rate: frames a second.

    Raises:
        MediumError: the part ends before it begins, or begins after the video.

    >>> middle_position(13, 25.0, ("whole", 0, 0)), middle_position(100, 25.0, ("seconds", 1, 3))
    (5, 49)
    """
    of, begin, end = part
    if not 0 <= begin <= end < math.inf:
        raise MediumError(Reason.BAD_RECORD, f"the segment {begin} to {end} is none")
    if of == "seconds" and rate <= 0:
        raise MediumError(Reason.MEDIA_UNREADABLE, "the video does not tell its frame rate")
    if of == "whole":
        first, last = 0, count - 1
    elif of == "seconds":
        first, last = (min(int(time * rate), count - 1) for time in (begin, end))
    else:
        first, last = int(begin), min(int(end), count)
    position = first + max(0, int((last - first - 1) / 2))
    if position >= count:
        raise MediumError(Reason.BAD_RECORD, f"the segment begins at frame {first} of {count}")
    return position
