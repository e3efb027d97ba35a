from dataclasses import replace

import pytest

from raypipe.benchmark import grade_answer, load, wants_judge
from raypipe.grading.metrics import ungraded
from raypipe.records import Outcome, Question, Verdict
from tests.support.case import predicted

QUESTION = Question("q", "some", "1", None, "Which?\nA. a cat\nB. a dog", "Which?", "B")
BY_RULE = replace(load("mmbench"), rubric=None)


def _by_letter(item, verdicts):
    """A judge that names the option an answer means."""
    verdict = verdicts[0] if verdicts else None
    if verdict is None or verdict.outcome is not Outcome.OK:
        return ungraded(item, verdict.outcome if verdict else Outcome.JUDGE_FAILED)
    right = verdict.reply == item.reference
    return replace(ungraded(item, item.outcome), value=float(right), parsed=verdict.reply)


BY_BOTH = replace(BY_RULE, rubric="video_qa", judged=_by_letter)


def _verdict(reply, outcome=Outcome.OK):
    return [Verdict("key", "some", "q", "judge", "judge-1", "r", outcome, None, None, reply, 1, 1)]


@pytest.mark.parametrize(
    ("text", "outcome", "wanted"),
    [
        ("B", Outcome.OK, False),
        ("It is the dog.", Outcome.OK, True),
        ("", Outcome.EMPTY, True),
        ("", Outcome.FAILED, False),
        ("", Outcome.MEDIUM_BAD, False),
    ],
)
def test_a_judge_is_asked_where_the_rule_cannot_read_an_answer(text, outcome, wanted):
    prediction = predicted(QUESTION, text, outcome)
    assert wants_judge(BY_BOTH, prediction) is wanted
    assert not wants_judge(BY_RULE, prediction)


def test_every_answer_to_an_open_question_is_judged():
    video_qa = load("msvd_qa")
    assert wants_judge(video_qa, predicted(QUESTION, "B"))
    assert not wants_judge(video_qa, predicted(QUESTION, "", Outcome.FAILED))


def test_the_judge_never_overrules_what_the_rule_reads():
    prediction = predicted(QUESTION, "B")
    assert grade_answer(BY_BOTH, prediction, _verdict("A")).value == 1
    assert grade_answer(BY_BOTH, prediction).value == 1


def test_the_judge_decides_where_the_rule_reads_nothing():
    prediction = predicted(QUESTION, "It is the dog.")
    assert grade_answer(BY_BOTH, prediction, _verdict("B")).value == 1
    assert grade_answer(BY_BOTH, prediction, _verdict("A")).value == 0
    unreadable = grade_answer(BY_BOTH, prediction, _verdict("?", Outcome.JUDGE_UNREADABLE))
    assert (unreadable.value, unreadable.outcome) == (None, Outcome.JUDGE_UNREADABLE)
    # Before it is judged it counts as the rule says: wrong, and named as not read.
    assert (grade_answer(BY_BOTH, prediction).value, grade_answer(BY_BOTH, prediction).parsed) == (
        0,
        "FAILED",
    )
    assert grade_answer(BY_RULE, prediction, _verdict("B")).value == 0


def test_an_answer_that_nothing_grades_has_no_value():
    secret = load("vizwiz")
    assert grade_answer(secret, predicted(QUESTION, "two")).value is None
