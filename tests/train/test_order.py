"""The order of the data: every sample once an epoch, whatever the batch, the seed and the workers."""

import json
import math
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.train.collate import share, shares
from raypipe.train.epochs import Epochs
from raypipe.train.mixture import IMAGE, TEXT, VIDEO
from raypipe.train.order import Order, interleaved, rate_factor
from tests.support import reference_data
from tests.train.stocks import KINDS, epoch_of, plain, stock

SAMPLE = st.tuples(st.sampled_from(KINDS), st.integers(1, 400))
WEIGHTS = st.sampled_from([1.0, 2.0, 0.5, 0.3, 1.7, 0.01])


@given(
    st.lists(SAMPLE, min_size=1, max_size=300),
    st.integers(1, 40),
    st.integers(0, 2**31),
    st.integers(0, 3),
    st.integers(1, 200),
    st.integers(1, 9),
    st.booleans(),
)
@settings(max_examples=60)
def test_each_sample_once_an_epoch(samples, size, seed, epoch, window, per_medium, grouped):
    kinds, lengths = zip(*samples, strict=True)
    order = Order(
        stock(kinds, lengths, per_medium=per_medium, per_shard=5), [1.0], size, seed, window, grouped=grouped
    )
    batches = epoch_of(order, epoch)
    assert sorted(i for b in batches for i in b) == list(range(len(kinds)))
    assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= size


@given(st.lists(SAMPLE, min_size=1, max_size=300), st.integers(1, 20), st.integers(0, 99), st.integers(1, 99))
@settings(max_examples=60)
def test_a_grouped_batch_is_of_one_modality_but_for_the_last_ones(samples, size, seed, window):
    kinds, lengths = zip(*samples, strict=True)
    order = Order(stock(kinds, lengths, per_medium=3), [1.0], size, seed, window, grouped=True)
    batches = epoch_of(order, 1)
    mixed = [n for n, batch in enumerate(batches) if len({kinds[i] for i in batch}) > 1]
    # Fewer than a batch of each kind are left over, and they come last.
    rest = sum(n % size for n in Counter(kinds).values())
    assert all(n >= len(batches) - math.ceil(rest / size) for n in mixed)


@given(
    st.lists(st.tuples(st.integers(0, 60), WEIGHTS), min_size=1, max_size=4),
    st.integers(1, 30),
    st.integers(1, 5),
)
@settings(max_examples=60)
def test_a_part_is_seen_exactly_as_often_as_its_weight_says(parts, size, epochs):
    counts, weights = [n for n, _ in parts], [w for _, w in parts]
    order = Order(stock([VIDEO] * sum(counts), parts=counts), weights, size, 3, 16)
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        batches = epoch_of(order, epoch)
        drawn = Counter(int(np.searchsorted(np.cumsum(counts), i, side="right")) for b in batches for i in b)
        for part, (count, weight) in enumerate(parts):
            exact = Fraction(str(weight)) * count
            assert math.floor(exact) <= drawn[part] <= math.ceil(exact)
        seen.update(i for b in batches for i in b)
    first = 0
    for count, weight in parts:
        share = Fraction(str(weight)) * epochs
        times = [seen[i] for i in range(first, first + count)]
        assert all(math.floor(share) <= t <= math.ceil(share) for t in times)
        first += count


@given(st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_parts_alternate_in_proportion(counts):
    """Up to any position, each part has had its share to within half a sample of each part."""
    stream = interleaved([np.full(n, part) for part, n in enumerate(counts)])
    total = sum(counts)
    assert len(stream) == total
    for part, count in enumerate(counts):
        had = np.cumsum(stream == part)
        assert (np.abs(had - np.arange(1, total + 1) * count / max(1, total)) <= len(counts) / 2 + 0.5).all()


def test_a_part_goes_on_where_it_stopped():
    """At half weight two epochs together are one pass, and the next two another one in another order."""
    order = Order(stock([VIDEO] * 41), [0.5], 4, 1, 8)
    passes = [[i for e in (n, n + 1) for b in epoch_of(order, e) for i in b] for n in (0, 2)]
    assert [len(p) for p in passes] == [41, 41]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(41))
    assert passes[0] != passes[1]


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 40))
def test_the_shares_of_all_workers_are_the_batch(rows, world, micro):
    every = [shares(rows, rank, world, micro) for rank in range(world)]
    assert len({len(s) for s in every}) == 1
    assert [i for s in every for part in s for i in part] == list(range(rows))
    assert all(len(part) <= micro for s in every for part in s)
    sizes = [len(share(rows, rank, world)) for rank in range(world)]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, 60), st.booleans())
@settings(max_examples=40)
def test_from_any_step_on_it_goes_on_the_same(step, grouped):
    kinds = [KINDS[n % 3] for n in range(50)]

    def made() -> Order:
        return Order(stock(kinds, range(1, 51), per_medium=2), [1.3], 8, 7, 24, grouped=grouped)

    whole = made()
    expected = [whole.batch(s) for s in range(70)]
    resumed = made()
    assert [resumed.batch(s) for s in range(step, 70)] == expected[step:]
    assert resumed.epoch_of(step) == next(e for e in range(20) if step in whole.steps(e))


def test_a_batch_depends_on_seed_and_position_alone():
    order = plain(50, 8, 7)
    steps = [13, 2, 40, 13, 0, 7, 6]
    assert [order.batch(s) for s in steps] == [plain(50, 8, 7).batch(s) for s in steps]
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(plain(50, 8, 8), 0)


def test_the_digest_names_an_epochs_order():
    order = plain(50, 8, 7)
    assert order.digest(1) == plain(50, 8, 7).digest(1)
    others = [
        order.digest(0),
        plain(50, 8, 8).digest(1),
        plain(50, 9, 7).digest(1),
        plain(51, 8, 7).digest(1),
    ]
    assert order.digest(1) not in others


def test_samples_are_shuffled_within_windows_of_permuted_shards():
    """A window draws from few stretches of shards, and those of the next epoch are others."""
    order = Order(stock([VIDEO] * 4096), [1.0], 32, 5, 512)
    drawn = []
    for epoch in (0, 1):
        batches = epoch_of(order, epoch)
        windows = [sorted({i // 8 for b in batches[n : n + 16] for i in b}) for n in range(0, 128, 16)]
        assert all(len(w) == 64 for w in windows)
        assert all(len({i // 8 for i in b}) > 8 for b in batches)
        drawn.append(windows)
    assert drawn[0] != drawn[1]
    assert order.together(17) == range(16, 32)


def test_grouped_batches_are_of_like_length():
    lengths = list(range(1, 641))
    spread = [
        max(b) - min(b)
        for b in epoch_of(Order(stock([TEXT] * 640, lengths), [1.0], 10, 3, 640, grouped=True), 0)
    ]
    assert max(spread) <= 10
    with_media = Order(stock([IMAGE] * 640, lengths, per_shard=1), [1.0], 10, 3, 640, grouped=True)
    loose = [max(b) - min(b) for b in epoch_of(Order(stock([IMAGE] * 640), [1.0], 10, 3, 640), 0)]
    assert sum(loose) > 2 * sum(max(b) - min(b) for b in epoch_of(with_media, 0))


def test_a_medium_of_very_many_samples_does_not_fill_whole_batches():
    row = [IMAGE] * 3000
    crowded = stock(row, per_medium=1)
    crowded.row[:1000] = 0
    crowded.shard[:1000] = 0
    batches = epoch_of(Order(crowded, [1.0], 30, 3, 512), 0)
    assert max(sum(i < 1000 for i in b) for b in batches) < 25
    assert sorted(i for b in batches for i in b) == list(range(3000))


def test_many_samples_are_whole_in_every_epoch():
    rng = np.random.default_rng(0)
    many = stock(rng.choice(3, 200_000), rng.integers(1, 400, 200_000), per_medium=4)
    order = Order(many, [1.0], 128, 7, grouped=True)
    for epoch in (0, 1):
        numbers = np.concatenate([np.asarray(b) for b in epoch_of(order, epoch)])
        assert np.array_equal(np.sort(numbers), np.arange(200_000))


def padded(batches: list[list[int]], lengths: list[int]) -> int:
    return sum(len(b) * max(abs(lengths[i]) for i in b) for b in batches)


def mixed(batches: list[list[int]], lengths: list[int]) -> int:
    return sum(len({lengths[i] > 0 for i in b}) > 1 for b in batches)


def test_micro_batches_waste_no_more_than_the_references():
    """The orders of the reference's sampler over the same lengths, added up over its seeds."""
    traces = json.loads((reference_data("golden") / "traces/sampler.json").read_text())
    waste: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0])
    mixes = [0, 0]
    for case in traces["cases"]:
        name, world, micro = case["lengths"], case["world_size"], case["batch_size"]
        lengths = traces["lists"][name]
        kinds = [IMAGE if n > 0 else TEXT for n in lengths]
        order = Order(stock(kinds, np.abs(lengths)), [1.0], world * micro, case["seed"], grouped=True)
        for epoch, theirs in enumerate([case["order"], case["order_epoch2"]]):
            if theirs is None:
                continue
            batches = epoch_of(order, epoch)
            assert sorted(theirs) == sorted(i for b in batches for i in b)
            ours = [list(b[s : s + micro]) for b in batches for s in range(0, len(b), micro)]
            reference = [theirs[s : s + micro] for s in range(0, len(theirs), micro)]
            for place, cut in enumerate((ours, reference)):
                waste[name, world, micro][place] += padded(cut, lengths)
                mixes[place] += mixed(cut, lengths)
    assert len(waste) > 50
    assert [case for case, (ours, reference) in waste.items() if ours > reference] == []
    assert sum(ours for ours, _ in waste.values()) < 0.85 * sum(theirs for _, theirs in waste.values())
    assert mixes[0] < mixes[1] / 2


@pytest.mark.parametrize(
    ("counts", "weights", "epochs", "steps"),
    [([8], [1.0], 1.0, 3), ([8], [1.0], 1.5, 5), ([8], [0.5], 2.0, 4), ([8, 5], [2.0, 1.0], 1.0, 7)],
)
def test_steps_of_epochs(counts, weights, epochs, steps):
    assert Epochs(counts, weights, 3).steps(epochs) == steps


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
