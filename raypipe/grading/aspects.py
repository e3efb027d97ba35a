"""Several aspects of one answer, each judged from 0 to 5, and their means.

Source: Video-ChatGPT ``quantitative_evaluation``: for each aspect the mean of the scores. A graded question
carries the mark of each aspect as a tag (``correctness=4``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from raypipe.grading.metrics import Graded, GradedTable, Metric, mean, outcome_of, ratio, ungraded
from raypipe.grading.statistics import Floats
from raypipe.records import Outcome, Prediction, Question

BEST = 5.0
UNREADABLE = "unreadable"


def graded_by_aspects(item: Prediction | Question, marks: Mapping[str, float | None]) -> Graded:
    """A question with the marks of its aspects, ``score`` their mean.

    An unreadable one (None) makes the outcome so; the other marks count all the same.
    """
    known = [mark for mark in marks.values() if mark is not None]
    outcome = outcome_of(item) if len(known) == len(marks) else Outcome.JUDGE_UNREADABLE
    score = sum(known) / len(known) if known else None
    value = None if score is None else score / BEST
    said = (f"{aspect}={UNREADABLE if mark is None else f'{mark:g}'}" for aspect, mark in marks.items())
    return replace(ungraded(item, outcome), value=value, score=score, tags=(*item.tags, *said))


def aspect_metrics(table: GradedTable, aspects: Mapping[str, str]) -> list[Metric]:
    """``mean`` and the mean score of each aspect, 0..5; ``mean`` is unknown until each has a verdict.

    Args:
        aspects: the category of the questions that each aspect is judged on.
    """
    metrics = []
    for aspect, category in aspects.items():
        scores = np.full(len(table), np.nan)
        for mark, mask in table.facet(aspect).items():
            if mark != UNREADABLE:
                scores[mask] = float(mark)
        metrics.append(mean(aspect, scores, table.category == category, (0.0, BEST)))
    answered = np.logical_or.reduce([metric.answered for metric in metrics])
    if not all(metric.answered.any() for metric in metrics):
        answered = np.zeros_like(answered)
    counts = np.concatenate([metric.counts for metric in metrics], axis=1)

    def mean_of_aspects(sums: Floats) -> Floats:
        each = np.stack([ratio(part) for part in np.split(sums, len(aspects), axis=-1)])
        return np.asarray(each.mean(axis=0), dtype=np.float64)

    return [Metric("mean", table.everything, answered, counts, mean_of_aspects, (0.0, BEST)), *metrics]
