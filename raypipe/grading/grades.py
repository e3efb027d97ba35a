"""Grades from 0 to 1 by which a judge says how much of an answer is right, and their totals.

Source: MM-Vet's evaluator (``mm-vet_evaluator.ipynb``). The names of capability sets are sorted, while the
official ones depend on Python's set order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from raypipe.grading.metrics import Graded, GradedTable, Metric, by_facet, outcome_of, proportion, ungraded
from raypipe.records import Outcome, Prediction, Question

FACETS = ("capability", "capabilities")


def read_grade(reply: Any) -> float | None:
    """The grade in a judge's reply, as the evaluator reads it: before the first space, in 0..1."""
    try:
        grade = float(reply.split(" ")[0]) if isinstance(reply, str) else math.nan
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def graded_by_grade(item: Prediction | Question, grade: float | None) -> Graded:
    """A question with its grade; without one the judge could not be read, and that is no zero."""
    unread = ungraded(item, Outcome.JUDGE_UNREADABLE)
    return unread if grade is None else replace(unread, value=grade, outcome=outcome_of(item))


def capability_tags(names: Iterable[str]) -> tuple[str, ...]:
    """The tags of a question that needs these capabilities: one for each, and one for the set of them."""
    needed = sorted(set(names))
    return (*(f"capability={name}" for name in needed), f"capabilities={'+'.join(needed)}")


def grade_metrics(table: GradedTable) -> list[Metric]:
    """``total``, and ``total/capability=<name>`` and ``total/capabilities=<names>`` where they are known."""
    return [proportion("total", table.value, table.everything), *by_facet(table, *FACETS, name="total")]
