"""Yes-or-no answers as detections, "yes" being the positive answer: precision, recall, F1 and yes-ratio.

Source: LLaVA ``llava/eval/eval_pope.py``. A ratio with nothing below its line is 0 and no error.
"""

from __future__ import annotations

import numpy as np

from raypipe.grading.metrics import GradedTable, Metric, accuracies, proportion
from raypipe.grading.statistics import Floats

TP, FP, FN, N = range(4)
WIDTH = 4


def precision(counts: Floats) -> Floats:
    return _percent(counts[..., TP], counts[..., TP] + counts[..., FP])


def recall(counts: Floats) -> Floats:
    return _percent(counts[..., TP], counts[..., TP] + counts[..., FN])


def f1(counts: Floats) -> Floats:
    return _percent(2 * counts[..., TP], 2 * counts[..., TP] + counts[..., FP] + counts[..., FN])


def mean_f1(counts: Floats) -> Floats:
    """Mean over the categories, which lie side by side; one without an answer is left out."""
    each = np.stack(np.split(counts, counts.shape[-1] // WIDTH, axis=-1))
    return np.nanmean(np.where(each[..., N] > 0, f1(each), np.nan), axis=0)


def detection_metrics(table: GradedTable) -> list[Metric]:
    """``f1``, the mean of the categories' F1; ``accuracy``; and five metrics of each category."""
    answered = ~np.isnan(table.value)
    said_yes, is_yes = table.parsed == "yes", table.truth == "yes"
    columns = [said_yes & is_yes, said_yes & ~is_yes, ~said_yes & is_yes, answered]
    counts = np.stack(columns, axis=1).astype(np.float64) * answered[:, None]
    members = {category: table.category == category for category in table.categories()}
    side_by_side = np.concatenate([counts * member[:, None] for member in members.values()], axis=1)
    metrics = [Metric("f1", table.everything, answered, side_by_side, mean_f1), *accuracies(table)]
    yes = np.where(answered, said_yes, np.nan)
    for category, member in members.items():
        for name, formula in (("f1", f1), ("precision", precision), ("recall", recall)):
            metrics.append(Metric(f"{name}/{category}", member, member & answered, counts, formula))
        metrics.append(proportion(f"yes_ratio/{category}", yes, member))
    return metrics


def _percent(part: Floats, whole: Floats) -> Floats:
    return 100 * part / np.maximum(whole, 1)
