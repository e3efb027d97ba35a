"""Reviews that mark two answers at once, a reference's and a model's.

Source: LLaVA ``llava/eval/eval_gpt_review_bench.py`` and ``summarize_gpt_review.py``, with their rounding.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from raypipe.grading.metrics import Graded, GradedTable, Mask, Metric, outcome_of, ungraded
from raypipe.grading.statistics import Floats
from raypipe.records import Outcome, Prediction, Question

BEST_MARK = 10.0
BOUNDS = (0.0, 1000.0)  # the best mark against a reference with 1

Marks = tuple[float, float]


def read_marks(reply: Any) -> Marks | None:
    """The marks in a judge's reply, as the reference reads them: two numbers alone in the first line."""
    if not isinstance(reply, str):
        return None
    pieces = reply.split("\n")[0].replace(",", " ").split(" ")
    try:
        return as_marks([float(piece) for piece in pieces])
    except ValueError:
        return None


def as_marks(pair: list[Any]) -> Marks | None:
    """The marks of reference and answer, or None if they are not two numbers in 0..10, the first above 0."""
    numbers = [mark for mark in pair if isinstance(mark, int | float) and not isinstance(mark, bool)]
    if len(pair) != 2 or len(numbers) != 2 or not all(0 <= mark <= BEST_MARK for mark in numbers):
        return None
    if numbers[0] == 0:  # a ratio over nothing
        return None
    return float(numbers[0]), float(numbers[1])


def graded_by_marks(item: Prediction | Question, marks: Marks | None) -> Graded:
    """A question with the marks of reference and answer; without them the judge could not be read."""
    unread = ungraded(item, Outcome.JUDGE_UNREADABLE)
    if marks is None:
        return unread
    baseline, score = marks
    return replace(unread, value=score / BEST_MARK, score=score, baseline=baseline, outcome=outcome_of(item))


def relative(sums: Floats) -> Floats:
    """100 times the answers' mean over the references', of sums (references, answers, reviews)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = rounded(sums[..., :2] / sums[..., 2:3], 3)
        ratio = 100 * (means[..., 1] / means[..., 0])
    return rounded(np.where(np.isfinite(ratio), ratio, np.nan), 1)


def tenfold(sums: Floats) -> Floats:
    """Ten times the mean of sums (marks, reviews)."""
    with np.errstate(invalid="ignore"):
        return rounded(10 * rounded(sums[..., 0] / sums[..., 1], 3), 1)


def review_metrics(table: GradedTable) -> list[Metric]:
    """``all``, the references' and the answers' mean mark times ten, and the three for each category."""
    masks = {"": table.everything}
    masks |= {f"/{category}": table.category == category for category in table.categories()}
    return [metric for suffix, asked in masks.items() for metric in _three(table, suffix, asked)]


def _three(table: GradedTable, suffix: str, asked: Mask) -> list[Metric]:
    answered = asked & ~np.isnan(table.value)
    known = [np.where(answered, column, 0.0) for column in (table.baseline, table.score)]
    reference, answer = known
    one = answered.astype(np.float64)
    return [
        Metric(f"all{suffix}", asked, answered, np.stack([reference, answer, one], axis=1), relative, BOUNDS),
        Metric(f"reference_x10{suffix}", asked, answered, np.stack([reference, one], axis=1), tenfold),
        Metric(f"answer_x10{suffix}", asked, answered, np.stack([answer, one], axis=1), tenfold),
    ]


def rounded(numbers: Floats, digits: int) -> Floats:
    """Python's own rounding, which numpy's is not: a printed digit depends on it."""
    each = [
        math.nan if math.isnan(number) else round(number, digits) for number in np.ravel(numbers).tolist()
    ]
    return np.array(each, dtype=np.float64).reshape(np.shape(numbers))
