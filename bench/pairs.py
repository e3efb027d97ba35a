"""Times two ways of doing the same thing, in turn, and says what their ratio is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PAIRS = 15
RESAMPLES = 5000


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios (a over b) with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int
    a_s: float
    b_s: float

    def against(self, target: float) -> str:
        """Whether a ratio of at most ``target`` is met, missed or undecided, by the interval."""
        if self.high <= target:
            return "met"
        return "missed" if self.low > target else "undecided"


def paired(a: Callable[[], object], b: Callable[[], object], pairs: int = PAIRS) -> Ratio:
    """Runs a and b in turn (one warm-up each), CPU seconds of this process, A B A B ..."""
    a(), b()
    times = np.array([[_cpu_s(a), _cpu_s(b)] for _ in range(pairs)])
    ratios = times[:, 0] / times[:, 1]
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, size=(RESAMPLES, pairs)), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    a_s, b_s = np.median(times, axis=0)
    return Ratio(float(np.median(ratios)), float(low), float(high), pairs, float(a_s), float(b_s))


def _cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
