import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import RequestError
from raypipe.grading.soft_accuracy import (
    official_soft_match,
    processed_soft_match,
    soft_accuracy,
    ten_answers,
    uploaded_soft_match,
)

FOUR_KINDS = json.dumps(["a cat"] * 3 + ["dog"] * 2 + ["bird"] + ["two"] * 4)
ALL_TWO = json.dumps(["two"] * 10)
MOST_TWO = json.dumps(["two"] * 9 + ["2\n"])


def by_definition(prediction, answers):
    """Leaves each annotator out in turn."""
    worth = []
    for left_out in range(len(answers)):
        others = [answer for place, answer in enumerate(answers) if place != left_out]
        worth.append(min(Fraction(1), Fraction(others.count(prediction), 3)))
    return sum(worth) / len(worth)


@given(st.lists(st.sampled_from("abc"), min_size=10, max_size=10), st.sampled_from("abcd"))
def test_is_the_mean_over_those_left_out(answers, prediction):
    assert soft_accuracy(prediction, answers) == pytest.approx(float(by_definition(prediction, answers)))


@pytest.mark.parametrize(
    ("reply", "worth"),
    [("A cat.", 0.9), ("dog", 0.6), ("bird", 0.3), ("2", 1), ("two", 1), ("cow", 0), ("", 0)],
)
def test_textvqa_rule(reply, worth):
    assert processed_soft_match(FOUR_KINDS, reply).value == pytest.approx(worth)


def test_the_answer_that_was_read_is_told():
    assert processed_soft_match(FOUR_KINDS, "Two.").parsed == "2"
    assert uploaded_soft_match(FOUR_KINDS, "A Cat").parsed == "cat"


@pytest.mark.parametrize(
    ("reference", "prediction", "worth"),
    [
        (ALL_TWO, "two", 1),
        (ALL_TWO, " two\n", 1),  # line ends are cleaned in any case
        (ALL_TWO, "2", 0),  # all are equal: nothing is normalised
        (ALL_TWO, "Two", 0),
        (MOST_TWO, "2", 1),
        (MOST_TWO, "Two", 1),
        (MOST_TWO, "the 2.", 1),
        (json.dumps(["yes"] * 9 + ["yes\t"]), "Yes", 0),  # equal once they are cleaned
        (json.dumps(["man's"] * 2 + ["men"] * 8), "man's", 0.6),  # no parting of 's here
        (json.dumps(["1,000"] * 9 + ["many"]), "1000", 1),
    ],
)
def test_official_rule(reference, prediction, worth):
    assert official_soft_match(reference, prediction).value == pytest.approx(worth)


@pytest.mark.parametrize(
    ("reference", "reply", "worth"),
    [
        (json.dumps(["yes"] * 10), "Yes", 1),  # the upload holds "yes"
        (ALL_TWO, "Two", 0),  # it holds "2", and all ten say "two"
        (MOST_TWO, "Two", 1),
        (json.dumps(["man's"] * 9 + ["men"]), "man's", 0),  # it holds "man 's"
    ],
)
def test_what_the_server_gives_a_reply(reference, reply, worth):
    assert uploaded_soft_match(reference, reply).value == worth


def test_answers_are_texts_or_objects():
    texts = json.dumps(["é"] * 10, ensure_ascii=False)
    assert ten_answers(["é"] * 10, "f") == texts
    assert ten_answers([{"answer": "é", "answer_id": i} for i in range(10)], "f") == texts


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["a"] * 9, "f, row 1: 9 answers"),
        (["a"] * 11, "11 answers"),
        (None, "0 answers"),
        ("abcdefghij", "0 answers"),
        (["a"] * 9 + [1], "not text"),
        ([{"answer": "a"}] * 9 + [{}], "not text"),
    ],
)
def test_other_than_ten_texts_are_refused(answers, message):
    with pytest.raises(RequestError, match=message):
        ten_answers(answers, "f, row 1")
