import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.grading.statistics import (
    _student_quantile,
    binomial_p_greater,
    cluster_bootstrap,
    cluster_codes,
    clustered_proportion,
    design_effect,
    paired_difference,
    wilson,
)

clusters_of_hits = st.lists(
    st.integers(1, 20).flatmap(lambda size: st.tuples(st.integers(0, size), st.just(size))),
    min_size=1,
    max_size=40,
)


def _columns(rows):
    table = np.array(rows, dtype=np.float64)
    return table[:, 0], table[:, 1]


def _mean(sums):
    return sums[..., 0] / sums[..., 1]


def test_wilson_against_known_values():
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for k, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_holds_its_proportion_and_never_collapses(k, n):
    k = min(k, n)
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert low < high
    mirrored = wilson(n - k, n)
    assert mirrored == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5), (0, float("nan"))])
def test_wilson_refuses_what_is_no_proportion(k, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(k, n)


def test_student_quantiles_against_tables():
    for freedom, value in ((1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (10, 2.228), (100, 1.984)):
        assert _student_quantile(freedom) == pytest.approx(value, abs=5e-4)


def test_design_effect_of_identical_answers_is_the_cluster_size():
    hits, sizes = _columns([(10, 10), (0, 10)] * 200)
    assert design_effect(hits, sizes) == pytest.approx(10, rel=0.02)


def test_design_effect_of_independent_answers_is_one():
    hits, sizes = _columns([(1, 1), (0, 1), (1, 1)] * 100)
    assert design_effect(hits, sizes) == pytest.approx(1, rel=0.01)


@given(clusters_of_hits)
def test_clustered_interval_is_never_narrower_than_independent_answers(rows):
    hits, sizes = _columns(rows)
    n = sizes.sum()
    low, high = clustered_proportion(hits, sizes)
    plain_low, plain_high = wilson(hits.sum(), n)
    assert 1 <= design_effect(hits, sizes) <= sizes.max()
    assert 0 <= low <= plain_low + 1e-12
    assert plain_high - 1e-12 <= high <= 1
    assert low < high


@pytest.mark.parametrize(("rate", "correlation"), [(0.5, 0.3), (0.9, 0.02), (0.9, 0.2)])
def test_clustered_interval_covers_the_truth_as_often_as_it_says(rate, correlation):
    random = np.random.default_rng(1)
    a, b = rate * (1 - correlation) / correlation, (1 - rate) * (1 - correlation) / correlation
    covered = 0
    for _ in range(600):
        sizes = random.integers(1, 20, size=120)
        hits = random.binomial(sizes, random.beta(a, b, size=120))
        low, high = clustered_proportion(hits.astype(float), sizes.astype(float))
        covered += low <= rate <= high
    assert 0.92 <= covered / 600 <= 0.98


def test_bootstrap_covers_the_truth_of_an_f1():
    random = np.random.default_rng(2)
    truth_rate, recall, false_rate = 0.5, 0.8, 0.1
    tp, fp, fn = truth_rate * recall, (1 - truth_rate) * false_rate, truth_rate * (1 - recall)
    truth = 2 * tp / (2 * tp + fp + fn)
    covered = 0
    for _ in range(200):
        # Half of the answers on an image repeat its first one.
        draws = random.choice(4, size=(100, 6), p=[tp, fp, fn, 1 - tp - fp - fn])
        draws = np.where(random.random((100, 6)) < 0.5, draws[:, :1], draws)
        sums = np.stack([(draws == kind).sum(axis=1) for kind in range(3)], axis=1).astype(float)
        low, high = cluster_bootstrap(
            sums, lambda s: 2 * s[..., 0] / (2 * s[..., 0] + s[..., 1] + s[..., 2]), resamples=400
        )
        covered += low <= truth <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_bootstrap_is_the_same_every_time_and_whatever_the_block(monkeypatch):
    sums = np.random.default_rng(0).random((50, 2)) + 1
    first = cluster_bootstrap(sums, _mean)
    assert cluster_bootstrap(sums, _mean) == first
    assert cluster_bootstrap(sums, _mean, seed=1) != first
    monkeypatch.setattr("raypipe.grading.statistics.BLOCK", 777)
    assert cluster_bootstrap(sums, _mean) == pytest.approx(first)


def test_bootstrap_leaves_out_resamples_that_say_nothing():
    low, high = cluster_bootstrap(np.array([[1.0, 1.0], [0.0, 0.0]]), _ratio_or_nan)
    assert (low, high) == (1, 1)


def _ratio_or_nan(sums):
    with np.errstate(invalid="ignore"):
        return _mean(sums)


@given(st.integers(0, 60), st.integers(0, 60), st.fractions(0, 1, max_denominator=50))
def test_binomial_tail_is_exact(k, n, rate):
    k = min(k, n)
    exact = sum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k, n + 1))
    assert binomial_p_greater(k, n, float(rate)) == pytest.approx(float(exact), rel=1e-9, abs=1e-15)


def test_binomial_tail_for_thousands():
    exact = Fraction(sum(math.comb(5000, i) for i in range(2600, 5001)), 2**5000)
    assert binomial_p_greater(2600, 5000, 0.5) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize(("k", "n", "p"), [(-1, 5, 0.5), (6, 5, 0.5), (1, 5, 1.5)])
def test_binomial_refuses_what_is_no_experiment(k, n, p):
    with pytest.raises(ValueError, match="at rate"):
        binomial_p_greater(k, n, p)


def test_paired_difference_is_mcnemar_where_questions_stand_alone():
    a = {str(i): 1.0 for i in range(20)}
    b = {**a, **{str(i): 0.0 for i in range(8)}, "20": 1.0}
    found = paired_difference(a, b, {})
    assert found.difference == pytest.approx(0.4)
    assert found.p == pytest.approx(2 * 0.5**8)
    assert 0 < found.low < 0.4 < found.high


def test_clusters_widen_a_paired_difference():
    a = {f"{v}-{i}": float(v % 3 != 0) for v in range(30) for i in range(10)}
    b = {key: float(int(key.split("-")[0]) % 4 != 0) for key in a}
    alone = paired_difference(a, b, {})
    together = paired_difference(a, b, {key: key.split("-")[0] for key in a})
    assert together.difference == alone.difference
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert together.p > alone.p


def test_one_medium_decides_nothing():
    a, b = {str(i): 1.0 for i in range(50)}, {str(i): 0.0 for i in range(50)}
    found = paired_difference(a, b, dict.fromkeys(a, "the video"))
    assert found.p == 1
    assert found.low < 0.5
    assert found.high == 1


def test_flips_are_drawn_where_there_are_many_media():
    random = np.random.default_rng(0)
    a = {str(i): float(random.random()) for i in range(300)}
    b = {i: value - 0.2 * random.random() for i, value in a.items()}
    assert paired_difference(a, b, {}).p == pytest.approx(1 / 10_001)
    same = paired_difference(a, {i: v + random.normal() for i, v in a.items()}, {})
    assert same.p > 0.01
    assert same.low < 0 < same.high


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=30))
def test_paired_difference_is_antisymmetric(rows):
    a = {str(i): row[0] for i, row in enumerate(rows)}
    b = {str(i): row[1] for i, row in enumerate(rows)}
    clusters = {str(i): row[2] for i, row in enumerate(rows)}
    there, back = paired_difference(a, b, clusters), paired_difference(b, a, clusters)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == pytest.approx(back.p)
    assert 0 < there.p <= 1
    assert -1 <= there.low <= there.difference + 1e-9
    assert there.difference - 1e-9 <= there.high <= 1


def test_identical_answers_differ_by_nothing():
    a = {str(i): float(i % 2) for i in range(10)}
    found = paired_difference(a, dict(a), {})
    assert (found.difference, found.p) == (0, 1)
    assert found.low < 0 < found.high


def test_nothing_shared_is_an_error():
    with pytest.raises(ValueError, match="both"):
        paired_difference({"a": 1.0}, {"b": 1.0}, {})


def test_cluster_codes_follow_first_appearance():
    assert cluster_codes(["b", "a", "b"]).tolist() == [0, 1, 0]
