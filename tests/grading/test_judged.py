"""Graded questions made of a judge's marks, a grade, or marks by aspect."""

import pytest

from raypipe.grading.aspects import aspect_metrics, graded_by_aspects
from raypipe.grading.grades import capability_tags, graded_by_grade
from raypipe.grading.metrics import score_of, tabulate
from raypipe.grading.reviews import graded_by_marks
from raypipe.records import Outcome, Question
from tests.support.case import predicted

QUESTION = Question("q", "some", "1", None, "Why?", "Why?", "because", "generic", tags=("a=b",))
MAKERS = [
    (graded_by_marks, (8.0, 4.0), None),
    (graded_by_grade, 0.4, None),
    (graded_by_aspects, {"detail": 2.0}, {"detail": None}),
]


@pytest.mark.parametrize(("make", "marks", "unread"), MAKERS)
def test_a_judged_answer_has_a_value_and_an_unread_one_has_none(make, marks, unread):
    graded = make(QUESTION, marks)
    assert (graded.value, graded.outcome) == (0.4, Outcome.OK)
    lost = make(QUESTION, unread)
    assert (lost.value, lost.outcome) == (None, Outcome.JUDGE_UNREADABLE)


@pytest.mark.parametrize(("make", "marks", "unread"), MAKERS)
def test_an_empty_answer_stays_one_whatever_it_is_worth(make, marks, unread):
    empty = predicted(QUESTION, "", Outcome.EMPTY)
    assert (make(empty, marks).value, make(empty, marks).outcome) == (0.4, Outcome.EMPTY)
    assert make(empty, unread).outcome is Outcome.JUDGE_UNREADABLE


def test_marks_keep_the_reference_beside_the_answer():
    graded = graded_by_marks(QUESTION, (8.0, 9.5))
    assert (graded.baseline, graded.score, graded.value) == (8.0, 9.5, 0.95)


def test_an_aspect_that_was_not_read_leaves_the_others():
    graded = graded_by_aspects(QUESTION, {"detail": 4.0, "context": None})
    assert (graded.score, graded.value, graded.outcome) == (4.0, 0.8, Outcome.JUDGE_UNREADABLE)
    assert graded.tags == ("a=b", "detail=4", "context=unreadable")
    table = tabulate([graded])
    found = {m.name: score_of("b", m, table) for m in aspect_metrics(table, {"detail": "generic"})}
    assert {name: (s.value, s.n) for name, s in found.items()} == {"mean": (4, 1), "detail": (4, 1)}


def test_capabilities_are_sorted_and_named_once():
    assert capability_tags(["ocr", "math", "ocr"]) == (
        "capability=math",
        "capability=ocr",
        "capabilities=math+ocr",
    )
