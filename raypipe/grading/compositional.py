"""Compositional questions by what they ask for: structural and semantic type, steps and words.

Source: GQA's ``eval.py``. Questions of the structural type ``query`` are open, all others binary.
"""

from __future__ import annotations

from collections.abc import Iterable

from raypipe.grading.metrics import GradedTable, Metric, accuracies, by_facet, proportion

OPEN_TYPE = "query"
NO_STEP = ("exist", "query: name", "choose name")  # what the official scorer does not count as a step


def steps_counted(operations: Iterable[str]) -> int:
    """The number of reasoning steps of a question's program.

    Args:
        operations: each as ``operation: argument``.
    """
    return sum(not any(part in operation for part in NO_STEP) for operation in operations)


def compositional_metrics(table: GradedTable) -> list[Metric]:
    """``accuracy``, ``binary``, ``open``, and accuracy by structural and semantic type, steps and words."""
    is_open = table.category == OPEN_TYPE
    return [
        *accuracies(table),
        proportion("binary", table.value, ~is_open),
        proportion("open", table.value, is_open),
        *by_facet(table, "semantic", "steps", "words"),
    ]
