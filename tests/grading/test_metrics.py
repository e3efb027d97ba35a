import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.grading.metrics import (
    Graded,
    accuracies,
    averaged,
    graded_from_verdict,
    mean,
    score_of,
    tabulate,
)
from raypipe.records import MediumKind, MediumRef, Outcome, Question, Verdict

QUESTION = Question("q", "msvd_qa", "v_1", MediumRef(MediumKind.VIDEO, "a.mp4"), "p", "p", "book", "3")


def _graded(values, media=None, category=""):
    media = media or [""] * len(values)
    return [
        Graded(str(i), medium, category, value)
        for i, (value, medium) in enumerate(zip(values, media, strict=True))
    ]


def _accuracy(graded):
    table = tabulate(graded)
    return score_of("b", accuracies(table)[0], table)


def test_missing_values_leave_both_denominators():
    score = _accuracy(_graded([1.0, 0.0, None, None]))
    assert (score.value, score.n, score.missing) == (50.0, 2, 2)


def test_a_perfect_score_is_not_a_certain_one():
    assert _accuracy(_graded([1.0] * 50)).low == pytest.approx(92.87, abs=0.01)
    # Fifty questions on five media tell as much as five.
    assert _accuracy(_graded([1.0] * 50, [str(i % 5) for i in range(50)])).low == pytest.approx(
        56.55, abs=0.01
    )


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0, None]), min_size=1, max_size=40), st.randoms())
def test_order_does_not_matter(values, random):
    graded = _graded(values, [str(i % 7) for i in range(len(values))])
    shuffled = random.sample(graded, len(graded))
    here, there = _accuracy(graded), _accuracy(shuffled)
    assert (here.n, here.missing) == (there.n, there.missing)
    if here.n:
        assert (there.value, there.low, there.high) == pytest.approx((here.value, here.low, here.high))


def test_categories_are_told_apart_when_there_are_several():
    one = tabulate(_graded([1.0, 0.0], category="x"))
    assert [m.name for m in accuracies(one)] == ["accuracy"]
    two = tabulate([*_graded([1.0, 0.0], category="x"), *_graded([1.0], category="y")])
    by_name = {m.name: score_of("b", m, two) for m in accuracies(two)}
    assert {name: (s.value, s.n) for name, s in by_name.items()} == {
        "accuracy": (pytest.approx(200 / 3), 3),
        "accuracy/x": (50, 2),
        "accuracy/y": (100, 1),
    }


def test_runs_over_the_same_questions_are_one_proportion():
    media = [str(i // 2) for i in range(8)]
    runs = [[1.0, 0.0, 0.5, 0.5, 0.0, 0.0, 1.0, 0.4], [0.0, 1.0, 0.5, 0.3, 0.0, 0.2, 1.0, 1.0]]
    tables = [tabulate(_graded(values, media)) for values in runs]
    (found,) = averaged([accuracies(table) for table in tables])
    of_means = _accuracy(_graded([(a + b) / 2 for a, b in zip(*runs, strict=True)], media))
    together = score_of("b", found, tables[0])
    assert (together.value, together.low, together.high) == pytest.approx(
        (of_means.value, of_means.low, of_means.high)
    )
    # Two media tell next to nothing, however often they are judged.
    few = [tabulate(_graded([0.2, 0.2, 0.1, 0.1], ["a", "a", "b", "b"])) for _ in range(3)]
    wide = score_of("b", averaged([accuracies(table) for table in few])[0], few[0])
    assert wide.high - wide.low > 40


def test_runs_over_different_questions_count_alike():
    tables = [tabulate(_graded(values)) for values in ([1.0, 1.0, None], [0.0, None, None])]
    (found,) = averaged([accuracies(table) for table in tables])
    score = score_of("b", found, tables[0])
    assert (score.value, score.n, score.missing) == (50, 2, 1)


def test_mean_score_has_its_own_count_and_stays_in_its_range():
    graded = [
        Graded(str(i), str(i), "", 1.0, score) for i, score in enumerate([5.0, 4.0, None, 3.0, 5.0, 1.0])
    ]
    table = tabulate(graded)
    score = score_of("b", mean("score", table.score, table.everything, (0, 5)), table)
    assert (score.value, score.n, score.missing) == (pytest.approx(3.6), 5, 1)
    assert 1 <= score.low < 3.6 < score.high <= 5


def test_equal_scores_still_have_an_interval():
    graded = [Graded(str(i), str(i), "", 1.0, 5.0) for i in range(10)]
    table = tabulate(graded)
    score = score_of("b", mean("score", table.score, table.everything, (0, 5)), table)
    assert score.high == 5
    assert 3 < score.low < 4


@pytest.mark.parametrize(
    ("outcome", "correct", "value", "ended"),
    [
        (Outcome.OK, True, 1.0, Outcome.OK),
        (Outcome.OK, False, 0.0, Outcome.OK),
        (Outcome.JUDGE_UNREADABLE, None, None, Outcome.JUDGE_UNREADABLE),
        (Outcome.JUDGE_FAILED, None, None, Outcome.JUDGE_FAILED),
    ],
)
def test_only_a_verdict_gives_a_value(outcome, correct, value, ended):
    verdict = Verdict("k", "msvd_qa", "q", "j", "m", "r", outcome, correct, 4.0, "", 0, 0)
    graded = graded_from_verdict(QUESTION, verdict)
    assert (graded.value, graded.outcome) == (value, ended)
    assert (graded.question_id, graded.medium, graded.category) == ("q", "a.mp4", "3")


def test_no_verdict_is_no_value():
    graded = graded_from_verdict(QUESTION, None)
    assert (graded.value, graded.score, graded.outcome) == (None, None, Outcome.JUDGE_FAILED)


def test_an_empty_table_is_unknown():
    assert np.isnan(_accuracy([]).value)
