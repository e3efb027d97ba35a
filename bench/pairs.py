"""Times two ways of doing the same thing, in turn, and says what their ratio is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

PAIRS = 15
RESAMPLES = 5000


@dataclass(frozen=True)
class Ratio:
    """The median of paired CPU ratios (a over b) with its 95 % bootstrap interval.

    ``a_s`` and ``b_s`` are medians in CPU seconds; the fields with ``wall`` say the same of the wall clock.
    """

    median: float
    low: float
    high: float
    pairs: int
    a_s: float
    b_s: float
    wall_median: float = 0.0
    wall_a_s: float = 0.0
    wall_b_s: float = 0.0
    ratios: tuple[float, ...] = field(default=(), repr=False)

    def against(self, target: float) -> str:
        """Whether a ratio of at most ``target`` is met, missed or undecided, by the interval."""
        return verdict(self.low, self.high, target)


def verdict(low: float, high: float, target: float) -> str:
    """What an interval says of a ratio that is to be at most ``target``."""
    if high <= target:
        return "met"
    return "missed" if low > target else "undecided"


def paired(
    a: Callable[[], object],
    b: Callable[[], object],
    pairs: int = PAIRS,
    clock: Callable[[], float] = time.process_time,
) -> Ratio:
    """Runs a and b in turn, one warm-up each; every other pair begins with b.

    Args:
        clock: CPU seconds so far; of this process unless said otherwise.
    """
    a(), b()
    times = np.array([_pair(a, b, clock, turn % 2 == 1) for turn in range(pairs)])  # [pair, arm, cpu or wall]
    ratios = times[:, 0] / times[:, 1]
    low, high = interval(ratios[:, 0])
    (a_s, wall_a_s), (b_s, wall_b_s) = np.median(times, axis=0).tolist()
    median, wall = np.median(ratios, axis=0).tolist()
    each = tuple(ratios[:, 0].tolist())
    return Ratio(median, low, high, pairs, a_s, b_s, wall, wall_a_s, wall_b_s, each)


def timed(arms: Sequence[Callable[[], float]], pairs: int = PAIRS) -> list[Ratio]:
    """The same for ways that say themselves how many seconds they took of what is compared.

    They run in turn, every round beginning with another one.

    Returns:
        the ratio of each arm but the last to the last one of the same round.
    """
    times = np.empty((pairs, len(arms)))
    for turn in range(pairs):
        for place in range(len(arms)):
            arm = (turn + place) % len(arms)
            times[turn, arm] = arms[arm]()
    found = []
    for arm in range(len(arms) - 1):
        ratios = times[:, arm] / times[:, -1]
        low, high = interval(ratios)
        a_s, b_s = np.median(times[:, [arm, -1]], axis=0).tolist()
        found.append(
            Ratio(float(np.median(ratios)), low, high, pairs, a_s, b_s, ratios=tuple(ratios.tolist()))
        )
    return found


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, size=(RESAMPLES, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def _pair(
    a: Callable[[], object], b: Callable[[], object], clock: Callable[[], float], swapped: bool
) -> list[tuple[float, float]]:
    if swapped:
        second = _cost(b, clock)
        return [_cost(a, clock), second]
    return [_cost(a, clock), _cost(b, clock)]


def _cost(work: Callable[[], object], clock: Callable[[], float]) -> tuple[float, float]:
    cpu, wall = clock(), time.perf_counter()
    work()
    return clock() - cpu, time.perf_counter() - wall
