"""The order of the data: every sample once an epoch, whatever the batch, the seed and the workers."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.train.order import MEGABATCH, Order, rate_factor, share

SIGNED = st.integers(1, 400) | st.integers(-400, -1)


def epoch_of(order: Order, epoch: int) -> list[tuple[int, ...]]:
    first = epoch * order.steps_per_epoch
    return [order.batch(step) for step in range(first, first + order.steps_per_epoch)]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 3))
@settings(deadline=None)
def test_each_sample_once_an_epoch(count, size, seed, epoch):
    batches = epoch_of(Order(count, size, seed), epoch)
    assert sorted(i for b in batches for i in b) == list(range(count))
    assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= size


@given(st.lists(SIGNED, min_size=1, max_size=300), st.integers(1, 20), st.integers(0, 99))
@settings(deadline=None)
def test_grouped_by_length_each_sample_is_once_an_epoch_too(lengths, size, seed):
    order = Order(len(lengths), size, seed, tuple(lengths))
    batches = epoch_of(order, 1)
    assert len(batches) == order.steps_per_epoch
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    mixed = [b for b in batches if len({lengths[i] > 0 for i in b}) > 1]
    ends = math.ceil(2 * (size - 1) / size)  # what is left over of both kinds comes last
    assert all(b in batches[-ends:] for b in mixed)


def test_grouped_batches_are_of_like_length():
    lengths = tuple(range(1, 641))
    spread = [max(b) - min(b) for b in epoch_of(Order(640, 10, 3, lengths), 0)]
    assert max(spread) <= 640 // MEGABATCH + 1
    loose = [max(b) - min(b) for b in epoch_of(Order(640, 10, 3), 0)]
    assert sum(loose) > 10 * sum(spread)


@given(st.integers(1, 100), st.integers(1, 24), st.integers(1, 4))
@settings(deadline=None)
def test_the_shares_of_all_workers_are_the_batch(count, size, world):
    batch = Order(count, size, 5).batch(0)
    shares = [share(batch, rank, world) for rank in range(world)]
    assert sorted(i for s in shares for i in s) == sorted(batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_batch_depends_on_seed_and_position_alone():
    order = Order(50, 8, 7)
    steps = [13, 2, 40, 13, 0, 7, 6]
    assert [order.batch(s) for s in steps] == [Order(50, 8, 7).batch(s) for s in steps]
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(Order(50, 8, 8), 0)


def test_a_large_mixture_is_ordered_once_an_epoch():
    order = Order(500_000, 128, 7)
    order.batch(0)
    began = time.perf_counter()
    for step in range(1000):
        order.batch(step)
    assert time.perf_counter() - began < 0.5


def test_rates_of_the_reference():
    rates = [rate_factor(step, 100, 0.03, "cosine") for step in range(100)]
    assert rates[:4] == [0, 1 / 3, 2 / 3, 1]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 96 / 97)))
    assert rate_factor(100, 100, 0.03, "cosine") == pytest.approx(0)


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from(["cosine", "linear", "constant"]))
def test_rates_stay_between_nothing_and_the_peak(steps, warmup, kind):
    rates = [rate_factor(step, steps, warmup, kind) for step in range(steps)]
    assert all(0 <= r <= 1 for r in rates)
    warm = math.ceil(warmup * steps)
    assert rates[:warm] == sorted(rates[:warm])
    assert warm == 0 or rates[0] == 0
    if kind == "constant":
        assert all(r == 1 for r in rates[warm:])
    elif kind == "linear" and warm < steps:
        assert rates[warm] == 1
