"""Intervals and tests for scores whose questions come in groups that share a medium.

Ten questions about one video are not ten independent observations, so every interval here takes
the medium as the unit: it is the cluster that is resampled, flipped or counted. Proportions are
fractions in 0..1, intervals are two-sided at 95 % unless said otherwise, and whatever is random has
a fixed seed, so that a score file is the same bytes each time it is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Formula = Callable[[Floats], Floats]

LEVEL = 0.95
RESAMPLES = 1000
EXACT_FLIPS = 12  # up to this many clusters every sign pattern is tried
RANDOM_FLIPS = 10_000
BLOCK = 4_000_000  # resampled cluster numbers held at a time


class PairedDifference(NamedTuple):
    """Mean of a minus mean of b over the questions both have, its interval, two-sided p value."""

    difference: float
    low: float
    high: float
    p: float


def wilson(successes: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion; never of zero width, not at 0 or ``n`` successes either.

    Args:
        successes: how many hits, of ``n``; need not be whole.
        n: how many independent observations; need not be whole (an effective size).

    Raises:
        ValueError: ``n`` is not positive or ``successes`` lies outside 0..n.
    """
    if not n > 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def design_effect(hits: Floats, sizes: Floats) -> float:
    """How many times larger the variance of a proportion is than it would be without clusters.

    Linearised variance of a ratio of cluster totals over that of independent draws (Kish 1965), kept
    between 1 and the effect if all answers within a cluster were the same. That upper end is taken where
    the data cannot show the effect: one cluster, or a proportion of 0 or 1.

    Args:
        hits: sum of the values, 0..1 each, in every cluster.
        sizes: number of answered questions in every cluster, all positive.
    """
    n, clusters = float(sizes.sum()), len(sizes)
    p = float(hits.sum()) / n
    most = float((sizes**2).sum()) / n
    if clusters < 2 or p <= 0 or p >= 1:
        return most
    residual = hits - p * sizes
    variance = clusters / (clusters - 1) * float((residual**2).sum()) / n**2
    effect = variance / (p * (1 - p) / n)
    # With few clusters the effect is itself a rough estimate: Korn and Graubard's correction (1998).
    effect *= (_student_quantile(clusters - 1) / _student_quantile(max(1, round(n) - 1))) ** 2
    return min(most, max(1.0, effect))


def clustered_proportion(hits: Floats, sizes: Floats) -> tuple[float, float]:
    """Interval of a proportion over clusters: Wilson's, with the effective sample size.

    That size is n / design effect, as Dean and Pagano (2015) recommend for clustered proportions.

    Args:
        hits: sum of the values, 0..1 each, in every cluster.
        sizes: number of answered questions in every cluster, all positive.
    """
    n = float(sizes.sum())
    size = n / design_effect(hits, sizes)
    return wilson(min(size, float(hits.sum()) / n * size), size)


def cluster_bootstrap(
    sums: Floats, formula: Formula, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile interval of any metric that is a function of summed counts.

    Whole clusters are drawn with replacement and their counts added, so the metric itself (an F1, a
    ratio of means, a sum of category scores) is resampled and not the mean of its terms.

    Args:
        sums: counts per cluster, ``[clusters, K]``.
        formula: from ``[..., K]`` to ``[...]``; nan where a resample leaves it undefined.

    Returns:
        low, high on the formula's scale; of zero width when the clusters do not differ.
    """
    clusters = len(sums)
    random = np.random.default_rng(seed)
    block = max(1, min(resamples, BLOCK // max(1, clusters)))
    values: list[Floats] = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = random.integers(clusters, size=(rows, clusters)) + np.arange(rows)[:, None] * clusters
        times = np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)
        values.append(formula(times @ sums))
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(np.concatenate(values), [tail, 100 - tail])
    return float(low), float(high)


def binomial_p_greater(k: int, n: int, p: float) -> float:
    """Exact one-sided binomial test: the chance of ``k`` or more successes in ``n`` at rate ``p``.

    Raises:
        ValueError: a rate outside 0..1, or not 0 <= k <= n.
    """
    if not 0 <= p <= 1 or not 0 <= k <= n:
        raise ValueError(f"{k} successes of {n} at rate {p}")
    if k == 0 or p == 1:
        return 1.0
    if p == 0:
        return 0.0
    log_p, log_q = math.log(p), math.log1p(-p)

    def chance(i: int) -> float:
        ways = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        return math.exp(ways + i * log_p + (n - i) * log_q)

    return min(1.0, math.fsum(chance(i) for i in range(k, n + 1)))


def paired_difference(
    a: Mapping[str, float],
    b: Mapping[str, float],
    clusters: Mapping[str, Hashable],
    span: float = 1.0,
    seed: int = 0,
) -> PairedDifference:
    """Compares two sets of values of the same questions: mean of ``a`` minus mean of ``b``.

    The interval is a cluster bootstrap of the difference. The p value is a sign-flip test on the
    clusters' summed differences; where every question is its own cluster and right or wrong, that test is
    McNemar's, and is computed exactly. The two are different procedures, so in border cases
    the interval may touch zero while p is below 0.05.

    Args:
        a, b: value by question id; only ids in both count.
        clusters: the medium of each question id; an id without one is its own cluster.
        span: the largest difference one question can have (1 for right or wrong, 5 for a judge's score).

    Raises:
        ValueError: no question is in both.
    """
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise ValueError("no question has a value in both")
    gaps = np.array([a[i] - b[i] for i in shared], dtype=np.float64)
    codes = cluster_codes([clusters.get(i, ("question", i)) for i in shared])
    totals = np.bincount(codes, weights=gaps).astype(np.float64)
    sizes = np.bincount(codes).astype(np.float64)
    difference = float(gaps.mean())
    low, high = cluster_bootstrap(np.stack([totals, sizes], axis=1), _ratio, seed=seed)
    if high - low < 1e-12:
        # No two media differ. A resample takes that for certainty; an unseen medium may differ all the same.
        margin = span * wilson(0, len(totals))[1]
        low, high = max(-span, difference - margin), min(span, difference + margin)
    binary = bool(np.isin(gaps, (-1.0, 0.0, 1.0)).all()) and len(totals) == len(gaps)
    p = _mcnemar(gaps) if binary else _sign_flip(totals, seed)
    return PairedDifference(difference, low, high, p)


def cluster_codes(names: list[Hashable]) -> NDArray[np.int64]:
    """Numbers 0, 1, ... for the clusters, in the order of their first appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64)


def _ratio(sums: Floats) -> Floats:
    return sums[..., 0] / sums[..., 1]


def _mcnemar(gaps: Floats) -> float:
    better, worse = int((gaps > 0).sum()), int((gaps < 0).sum())
    return min(1.0, 2 * binomial_p_greater(max(better, worse), better + worse, 0.5))


def _sign_flip(totals: Floats, seed: int) -> float:
    """Two-sided p: how often clusters with random signs differ at least as much as they do."""
    totals = totals[np.abs(totals) > 1e-12]
    clusters = len(totals)
    bar = abs(float(totals.sum())) - 1e-9
    if clusters <= EXACT_FLIPS:
        patterns = np.arange(2**clusters)[:, None] >> np.arange(clusters) & 1
        return float((np.abs((2 * patterns - 1) @ totals) >= bar).mean())
    random = np.random.default_rng(seed)
    block = max(1, BLOCK // clusters)
    as_far = 0
    for start in range(0, RANDOM_FLIPS, block):
        signs = random.integers(2, size=(min(block, RANDOM_FLIPS - start), clusters), dtype=np.int8)
        as_far += int((np.abs((2 * signs - 1) @ totals) >= bar).sum())
    return (as_far + 1) / (RANDOM_FLIPS + 1)


@lru_cache(maxsize=256)
def _student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by bisection of its exact distribution."""
    if freedom > 1000:
        return NormalDist().inv_cdf((1 + LEVEL) / 2)
    low, high = 0.0, 16.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, freedom) < LEVEL else (low, middle)
    return high


def _student_within(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for i in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (i - 1) / i
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
