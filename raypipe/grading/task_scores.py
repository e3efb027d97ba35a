"""Scores of tasks that ask two questions of each image, and sums of them.

Source: the calculator of the MME release. A task scores 100 times the share of right answers plus 100 times
the share of images with both right. The two questions of an image are found by the image. A question without
an answer is missing, and so is its image from the second share; a task of which nothing is answered
makes its sum unknown, not smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raypipe.grading.metrics import GradedTable, Mask, Metric, accuracies, all_right, proportion
from raypipe.grading.statistics import Floats

HITS, ANSWERED, BOTH, PAIRS = range(4)
WIDTH = 4
BEST = 200.0


def task_metrics(table: GradedTable, sums: Mapping[str, Sequence[str]]) -> list[Metric]:
    """The sums, ``accuracy``, ``accuracy_plus`` (both right), and three numbers of each task (the category).

    Args:
        sums: by name of a sum the tasks in it.
    """
    both, asked = all_right(table, table.cluster)
    columns = [np.nan_to_num(table.value), ~np.isnan(table.value), np.nan_to_num(both), ~np.isnan(both)]
    counts = np.stack(columns, axis=1).astype(np.float64)
    members = {task: table.category == task for task in table.categories()}
    metrics = []
    for name, tasks in sums.items():
        inside = [member for task, member in members.items() if task in tasks]
        if inside:
            metrics.append(_total(name, inside, counts))
    metrics += [*accuracies(table), proportion("accuracy_plus", both, asked)]
    for task, member in members.items():
        metrics.append(proportion(f"accuracy_plus/{task}", both, member & asked))
        metrics.append(_total(f"score/{task}", [member], counts))
    return metrics


def _total(name: str, inside: list[Mask], counts: Floats) -> Metric:
    """The sum of some tasks' scores; unknown while one of them has no image with both answers."""
    member = np.logical_or.reduce(inside)
    wide = np.concatenate([counts * task[:, None] for task in inside], axis=1)
    known = all(counts[task, PAIRS].any() for task in inside)
    answered = member & (counts[:, ANSWERED] > 0) & known
    return Metric(name, member, answered, wide, summed, (0.0, BEST * len(inside)))


def summed(sums: Floats) -> Floats:
    """The sum of task scores whose counts lie side by side; nan if one of them is not known."""
    tasks = sums.reshape(*sums.shape[:-1], -1, WIDTH)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = tasks[..., HITS] / tasks[..., ANSWERED] + tasks[..., BOTH] / tasks[..., PAIRS]
    return 100 * scores.sum(axis=-1)
