"""Which frames of a video are kept: pure functions from a frame count to positions."""

from __future__ import annotations

import numpy as np

from raypipe.settings import Sampling


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
    if sampling.policy == "uniform":
        chosen = np.linspace(0, count - 1, sampling.frames).astype(int)
    else:
        chosen = ((np.arange(sampling.frames) + 0.5) * count / sampling.frames).astype(int)
    return tuple(int(i) for i in np.clip(chosen, 0, count - 1))
