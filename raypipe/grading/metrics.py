"""Metrics as functions of summed counts, so that each can be resampled by medium in one addition.

A metric says what every question adds (``counts``) and what the sums mean (``formula``). Its value,
its interval and its two denominators follow from that, for an accuracy as for the mean of three F1.
A question without a value (no answer, no verdict) adds nothing and is counted as missing, never as wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raypipe.grading.answers import UNREADABLE
from raypipe.grading.statistics import (
    Floats,
    Formula,
    cluster_bootstrap,
    cluster_codes,
    clustered_proportion,
    wilson,
)
from raypipe.records import Outcome, Prediction, Question, Score, Verdict

Mask = NDArray[np.bool_]

PERCENT = (0.0, 100.0)
ANSWERED = frozenset({Outcome.OK, Outcome.EMPTY})


@dataclass(frozen=True)
class Graded:
    """A question with what its answer is worth.

    ``value`` is 1 or 0, or between them for soft accuracies, and None without an answer or a verdict;
    ``score`` is a judge's mark on the benchmark's own scale, ``baseline`` its mark of the reference where the
    judge compares two answers. ``medium`` is the path of the medium, empty for a question without one.
    """

    question_id: str
    medium: str
    category: str
    value: float | None
    score: float | None = None
    parsed: str = ""
    truth: str = ""
    outcome: Outcome = Outcome.OK
    row_id: str = ""
    tags: tuple[str, ...] = ()
    baseline: float | None = None


@dataclass(frozen=True)
class GradedTable:
    """The same as columns, one row per question; None is nan. ``cluster`` numbers the media.

    Texts are objects: numpy's own strings would all take as much memory as the longest reply.
    """

    cluster: NDArray[np.int64]
    illustrated: Mask  # has a medium
    category: NDArray[np.object_]
    value: Floats
    score: Floats
    parsed: NDArray[np.object_]
    truth: NDArray[np.object_]
    row_id: NDArray[np.object_]
    baseline: Floats
    tags: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.cluster)

    @property
    def everything(self) -> Mask:
        return np.ones(len(self), dtype=bool)

    def categories(self) -> list[str]:
        """The categories in alphabetical order, without the empty one."""
        return [str(name) for name in np.unique(self.category) if name]

    def facet(self, name: str) -> dict[str, Mask]:
        """The questions with each value of a facet (a tag is ``facet=value``), by value in order."""
        found: dict[str, Mask] = {}
        for row, tags in enumerate(self.tags):
            for tag in tags:
                facet, _, value = tag.partition("=")
                if facet == name:
                    found.setdefault(value, np.zeros(len(self), dtype=bool))[row] = True
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Metric:
    """One metric over a table.

    ``asked`` are the questions it is about and ``answered`` those of them that have a value;
    ``counts`` ``[N, K]`` is what each adds and ``formula`` turns sums ``[..., K]`` into the metric, on
    the scale of ``bounds``. A ``proportion`` has the counts (hits, 1) and gets Wilson's interval.
    """

    name: str
    asked: Mask
    answered: Mask
    counts: Floats
    formula: Formula
    bounds: tuple[float, float] = PERCENT
    proportion: bool = False


def tabulate(graded: Sequence[Graded]) -> GradedTable:
    """Columns of graded questions; a question without a medium is a cluster of its own.

    Rows are sorted, so that intervals by resampling do not depend on the order in which answers came.
    """
    graded = sorted(graded, key=lambda g: (g.medium, g.question_id))
    return GradedTable(
        cluster=cluster_codes([g.medium or ("question", g.question_id) for g in graded]),
        illustrated=np.array([bool(g.medium) for g in graded], dtype=bool),
        category=np.array([g.category for g in graded], dtype=object),
        value=_numbers(g.value for g in graded),
        score=_numbers(g.score for g in graded),
        parsed=np.array([g.parsed for g in graded], dtype=object),
        truth=np.array([g.truth for g in graded], dtype=object),
        row_id=np.array([g.row_id for g in graded], dtype=object),
        baseline=_numbers(g.baseline for g in graded),
        tags=tuple(g.tags for g in graded),
    )


def proportion(name: str, hits: Floats, asked: Mask) -> Metric:
    """The mean of hits (0..1 each, nan where unknown) over the questions asked, in percent."""
    answered = asked & ~np.isnan(hits)
    counts = np.stack([np.where(answered, hits, 0.0), answered], axis=1).astype(np.float64)
    return Metric(name, asked, answered, counts, percentage, proportion=True)


def mean(name: str, numbers: Floats, asked: Mask, bounds: tuple[float, float]) -> Metric:
    """The mean of the numbers that are known, on their own scale."""
    answered = asked & ~np.isnan(numbers)
    counts = np.stack([np.where(answered, numbers, 0.0), answered], axis=1).astype(np.float64)
    return Metric(name, asked, answered, counts, ratio, bounds)


def accuracies(table: GradedTable) -> list[Metric]:
    """``accuracy``, and ``accuracy/<category>`` for each category when there is more than one."""
    metrics = [proportion("accuracy", table.value, table.everything)]
    categories = table.categories()
    if len(categories) > 1:
        metrics += [proportion(f"accuracy/{c}", table.value, table.category == c) for c in categories]
    return metrics


def by_facet(table: GradedTable, *facets: str, name: str = "accuracy") -> list[Metric]:
    """``<name>/<facet>=<value>`` for each value of these facets."""
    return [
        proportion(f"{name}/{facet}={value}", table.value, mask)
        for facet in facets
        for value, mask in table.facet(facet).items()
    ]


def accuracies_by_facet(table: GradedTable, facets: Sequence[str]) -> list[Metric]:
    """``accuracies``, and accuracy by facet."""
    return [*accuracies(table), *by_facet(table, *facets)]


def unread(table: GradedTable) -> Metric:
    """``failed``: the share of the answers in which nothing could be read, which are wrong, too."""
    failed = np.where(np.isnan(table.value), np.nan, table.parsed == UNREADABLE)
    return proportion("failed", failed, table.everything)


def all_right(table: GradedTable, group: NDArray[np.int64]) -> tuple[Floats, Mask]:
    """For groups of questions that count only together: 1 on the first row of a group of which every
    question is right, 0 where one is not, nan where one has no value; nan on all other rows.

    Args:
        group: ``[N]``, which group each row is of.

    Returns:
        These numbers, and which rows are the first ones.
    """
    first, of = np.unique(group, return_index=True, return_inverse=True)[1:]
    unknown = np.bincount(of, np.isnan(table.value), len(first)) > 0
    wrong = np.bincount(of, table.value < 1, len(first)) > 0
    together = np.full(len(table), np.nan)
    together[first] = np.where(unknown, np.nan, ~wrong)
    asked = np.zeros(len(table), dtype=bool)
    asked[first] = True
    return together, asked


def averaged(runs: Sequence[Sequence[Metric]]) -> list[Metric]:
    """Metrics of several runs over the same questions as one each: the mean of their values.

    Where the runs answer the same questions, a proportion stays one, of each question's mean. Else the
    counts of the runs lie side by side, so that a resample of media takes the same media of every run.

    Args:
        runs: the metrics of each run, of tables with the same rows.
    """
    if len(runs) == 1:
        return list(runs[0])
    return [_mean_of(metrics) for metrics in zip(*runs, strict=True)]


def _mean_of(metrics: Sequence[Metric]) -> Metric:
    first = metrics[0]
    if all(m.proportion and np.array_equal(m.answered, first.answered) for m in metrics):
        # The mean of the runs is then the proportion of each question's mean.
        counts = np.mean([m.counts for m in metrics], axis=0)
        return replace(first, counts=counts)

    def formula(sums: Floats) -> Floats:
        parts = np.split(sums, len(metrics), axis=-1)
        return np.nanmean([m.formula(part) for m, part in zip(metrics, parts, strict=True)], axis=0)

    answered = np.logical_or.reduce([m.answered for m in metrics])
    counts = np.concatenate([m.counts * m.answered[:, None] for m in metrics], axis=1)
    return Metric(first.name, first.asked, answered, counts, formula, first.bounds)


def ratio(sums: Floats) -> Floats:
    """First sum over second; nan where the second is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def percentage(sums: Floats) -> Floats:
    return 100 * ratio(sums)


def score_of(benchmark: str, metric: Metric, table: GradedTable) -> Score:
    """Value, 95 % interval clustered by medium, and both denominators.

    Without an answered question value and interval are nan: nothing is known, and that is not 0.
    """
    n = int(metric.answered.sum())
    missing = int(metric.asked.sum()) - n
    if n == 0:
        return Score(benchmark, metric.name, np.nan, np.nan, np.nan, 0, missing)
    sums = _sums_by_cluster(metric, table.cluster)
    value = float(metric.formula(sums.sum(axis=0)))
    if metric.proportion:
        low, high = (100 * end for end in clustered_proportion(sums[:, 0], sums[:, 1]))
    else:
        low, high = _resampled(metric, sums, value)
    return Score(benchmark, metric.name, value, low, high, n, missing)


def graded_from_verdict(item: Prediction | Question, verdict: Verdict | None) -> Graded:
    """A judged answer. Unjudged or unreadably judged, it has no value: unscored, and not wrong."""
    asked = outcome_of(item)
    if asked not in ANSWERED:
        return ungraded(item, asked)
    if verdict is None:
        return ungraded(item, Outcome.JUDGE_FAILED)
    if verdict.outcome not in ANSWERED:
        return ungraded(item, verdict.outcome)
    value = None if verdict.correct is None else float(verdict.correct)
    return replace(ungraded(item, asked), value=value, score=verdict.score)


def outcome_of(item: Prediction | Question) -> Outcome:
    """How a question ended before it was graded: an empty answer stays one, whatever it is worth."""
    return item.outcome if isinstance(item, Prediction) else Outcome.OK


def ungraded(item: Prediction | Question, outcome: Outcome) -> Graded:
    """A question that ended without a value, and how."""
    if isinstance(item, Prediction):
        question_id, medium = item.question_id, item.medium
    else:
        question_id, medium = item.id, item.medium.path if item.medium else ""
    return Graded(
        question_id=question_id,
        medium=medium,
        category=item.category,
        value=None,
        truth=item.reference,
        outcome=outcome,
        row_id=item.row_id,
        tags=item.tags,
    )


def _numbers(values: Iterable[float | None]) -> Floats:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _sums_by_cluster(metric: Metric, cluster: NDArray[np.int64]) -> Floats:
    """Counts ``[clusters, K]`` summed over each medium that has an answered question."""
    names, codes = np.unique(cluster[metric.answered], return_inverse=True)
    counts = metric.counts[metric.answered]
    columns = [np.bincount(codes, weights=column, minlength=len(names)) for column in counts.T]
    return np.stack(columns, axis=1)


def _resampled(metric: Metric, sums: Floats, value: float) -> tuple[float, float]:
    low, high = cluster_bootstrap(sums, metric.formula)
    floor, ceiling = metric.bounds
    if high - low > 1e-9 * (ceiling - floor):
        return low, high
    # No medium differs, which a resample takes for certainty: as wide as a proportion over as many media.
    place = min(1.0, max(0.0, (value - floor) / (ceiling - floor)))
    low, high = wilson(place * len(sums), len(sums))
    return floor + low * (ceiling - floor), floor + high * (ceiling - floor)
