import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.grading.answers import judged_correct, judged_score, option_letter, short_answer, yes_or_no
from raypipe.grading.rules import ExactMatch, Mark


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("No", "no"),
        ("no, there is none", "no"),
        ("There is not one.", "no"),
        ("Yes", "yes"),
        ("Yes. No.", "yes"),  # only up to the first full stop
        ("NO", "yes"),  # only three spellings count
        ("Nothing", "yes"),
        ("", "yes"),
        ("No\nkite", "yes"),  # words are parted by spaces alone
        ("not,", "no"),
    ],
)
def test_pope_reading(reply, read):
    assert yes_or_no(reply) == read


@given(st.text())
def test_pope_reads_everything_as_yes_or_no(reply):
    assert yes_or_no(reply) in ("yes", "no")


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("B", "B"),
        ("B. iron", "B"),
        ("The answer is C.", "C"),
        ("I think. The answer is C. Yes.", "C"),
        ("The answer is C. The answer is C.", "FAILED"),
        ("The answer is C", "FAILED"),
        ("The answer is C\n", "FAILED"),
        ("The answer is C, I think.", "C"),  # the official full stop is any character
        ("The answer is Cats.", "C"),
        ("The answer is A! The answer is A.", "FAILED"),
        ("the answer is C.", "FAILED"),
        ("B.iron", "FAILED"),
        ("B. ", "B"),
        ("F. iron", "FAILED"),
        ("B is the run-on sentence.", "FAILED"),
        ("B.", "FAILED"),
        ("F", "FAILED"),
        ("The answer is Z.", "Z"),
        ("AB", "FAILED"),
        ("b", "FAILED"),
        ("", "FAILED"),
    ],
)
def test_scienceqa_reading(reply, read):
    assert option_letter(reply) == read


@given(st.text())
def test_scienceqa_reads_a_capital_or_fails(reply):
    assert option_letter(reply) in {*string.ascii_uppercase, "FAILED"}


@pytest.mark.parametrize(("reply", "read"), [("Left.", "left"), ("U.S...", "u.s"), ("a b", "a b"), (".", "")])
def test_gqa_reading(reply, read):
    assert short_answer(reply) == read


@pytest.mark.parametrize(
    ("pred", "correct"),
    [("yes", True), ("No", False), ("YES, no doubt", True), ("maybe", None), ("", None), (None, None)],
)
def test_reference_judge_reading(pred, correct):
    assert judged_correct(pred) is correct


@pytest.mark.parametrize(
    ("score", "read"),
    [(4, 4), (4.8, 4), ("4", 4), ("4.8", None), (None, None), (True, None), (9, None), (float("nan"), None)],
)
def test_reference_judge_score(score, read):
    assert judged_score(score) == read


def test_exact_match_compares_what_was_read():
    rule = ExactMatch(short_answer)
    assert rule("left", "Left.") == Mark(1.0, "left")
    assert rule("left", "to the left") == Mark(0.0, "to the left")
