"""The schedule of faults: from a seed alone, early enough to hit, and only what can befall a run."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.chaos.judge import KINDS, draw
from raypipe.chaos.schedule import FAULTS, JUDGE, chosen, kills
from raypipe.errors import RequestError


@given(
    st.integers(0, 10**9),
    st.lists(st.sampled_from(FAULTS), unique=True),
    st.integers(1, 40),
    st.integers(1, 9),
)
def test_each_kill_once_and_early(seed, faults, count, every):
    points = [every * n for n in range(1, count + 1)]
    drawn = kills(seed, faults, points)
    assert drawn == kills(seed, faults, points)
    assert Counter(k.fault for k in drawn) == Counter(f for f in faults if f != JUDGE)
    assert [k.at for k in drawn] == sorted(k.at for k in drawn)
    assert {k.at for k in drawn} <= set(points[: max(1, 2 * count // 3)])


def test_seeds_differ():
    drawn = {tuple(kills(seed, FAULTS, range(1, 30))) for seed in range(20)}
    assert len(drawn) > 15


def test_no_unit_no_kill():
    assert kills(1, ["worker"], []) == []


@given(st.integers(0, 10**9), st.integers(0, 20))
def test_failures_of_the_judge_fit_the_questions(seed, questions):
    drawn = draw(seed, questions)
    assert drawn == draw(seed, questions)
    assert len(drawn) == min(len(KINDS), questions)
    assert len({kind for _, kind in drawn}) == len(drawn)
    places = [at for at, _ in drawn]
    assert places == sorted(set(places))
    # Each falls while a question is still without an answer.
    assert all(at - number <= questions for number, at in enumerate(places))


def test_what_is_named_is_taken_or_refused():
    possible = ("worker", "driver")
    assert chosen(None, possible, "a stage") == ["worker", "driver"]
    assert chosen("driver, worker", possible, "a stage") == ["worker", "driver"]
    with pytest.raises(RequestError, match="no fault is called 'wroker'") as fault:
        chosen("wroker", possible, "a stage")
    assert "did you mean 'worker'" in fault.value.remedy
    with pytest.raises(RequestError, match="a stage has nothing that 'judge' could befall"):
        chosen("judge", possible, "a stage")
    with pytest.raises(RequestError, match="no fault is called ''"):
        chosen(",", possible, "a stage")
