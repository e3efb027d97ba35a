"""The sample ledger: exactly one chain of segments, each place of an epoch once, or it says what is wrong."""

import pytest

from raypipe.errors import DamageError
from raypipe.store.files import Store
from raypipe.store.verify_train import ledger_facts
from raypipe.train.ledger import SampleLedger

SLOTS, BATCH, STEPS = 8, 3, 6  # two epochs of steps with 3, 3 and 2 samples


def rows_of(step: int, rank: int, world: int) -> list[tuple[int, int, str, str]]:
    first = step % 3 * BATCH
    slots = range(min(BATCH, SLOTS - first))
    return [(s, first + s, f"sample {first + s}", "trained") for s in slots if s % world == rank]


def told(
    store: Store, first: int, last: int, world: int = 2, chain=(), attempt: str = "a", lost=()
) -> list[dict]:
    """Writes the segment of the steps first..last-1 as ``world`` ranks tell it; returns the chain."""
    ledgers = [SampleLedger(first, chain) for _ in range(world)]
    for step in range(first, last):
        for rank, ledger in enumerate(ledgers):
            seen = [row for row in rows_of(step, rank, world) if (step, row[1]) not in lost]
            ledger.add(step, step // 3, step % 3 * BATCH, seen)
    mine = ledgers[0]._rows
    others = [ledger._rows for ledger in ledgers[1:]]
    chain, files = ledgers[0].close(last, attempt, lambda value: [value, *others])
    assert mine is not ledgers[0]._rows
    for name, data in files.items():
        store.replace(name, data)
    return chain


def proved(store: Store, chain: list[dict], steps: int = STEPS) -> dict[str, int]:
    return ledger_facts(store, [entry["path"] for entry in chain], steps, [SLOTS] * 2, True)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def test_a_chain_over_starts_and_worlds_proves_each_sample_once(store):
    chain = told(store, 0, 2)
    told(store, 2, 4, chain=chain)  # computed, and lost with its start
    chain = told(store, 2, 5, world=3, chain=chain, attempt="b")
    chain = told(store, 5, 6, world=1, chain=chain, attempt="c")
    assert proved(store, chain) == {"epochs": 2, "rows": 16}
    assert [e["rows"] for e in chain] == [6, 8, 2]
    assert len(store.list("ledger")) == 4


def test_an_epoch_that_is_not_over_is_not_counted(store):
    assert proved(store, told(store, 0, 5), 5) == {"epochs": 1, "rows": 14}
    assert proved(store, [], 0) == {"epochs": 0, "rows": 0}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("gap", "does not go on from step 2"),
        ("both", "does not go on from step 4"),
        ("end", "ends at step 5 of 6"),
        ("lost", "epoch 0 has 7 samples of 8"),
        ("twice", "place 4 of epoch 0 was seen twice"),
        ("step", "does not go on from step 0"),
        ("beyond", "epoch 1 has 8 samples of 8"),
    ],
)
def test_what_is_wrong_is_named(store, fault, said):
    chain = told(store, 0, 2)
    if fault == "gap":
        chain = told(store, 3, 6, chain=chain)
    elif fault == "both":
        chain = told(store, 2, 6, chain=[*chain, *told(store, 2, 4, attempt="b")])
    elif fault == "end":
        chain = told(store, 2, 5, chain=chain)
    elif fault == "lost":
        chain = told(store, 2, 6, chain=told(store, 0, 2, lost={(1, 5)}))
    elif fault == "twice":
        chain = seen_twice(store)
    elif fault == "step":
        chain = told(store, 0, 6, lost={(1, 3), (1, 4), (1, 5)})
    else:
        chain = seen_twice(store, 9)
    with pytest.raises(DamageError, match=said):
        proved(store, chain)


def seen_twice(store: Store, place: int = 4) -> list[dict]:
    """Six steps; the last sample of one of them stands at another place."""
    ledger = SampleLedger(0, ())
    for step in range(STEPS):
        rows = rows_of(step, 0, 1)
        at = 1 if place == 4 else 5
        if step == at:
            rows[-1] = (place - step % 3 * BATCH, *rows[-1][1:])
        ledger.add(step, step // 3, step % 3 * BATCH, rows)
    chain, files = ledger.close(STEPS, "a", lambda value: [value])
    for name, data in files.items():
        store.replace(name, data)
    return chain


def test_epochs_may_differ_in_size(store):
    ledger = SampleLedger(0, ())
    for step, (epoch, count) in enumerate([(0, 3), (0, 1), (1, 3), (2, 3)]):
        first = 3 * (step % 2) if epoch == 0 else 0
        ledger.add(step, epoch, first, [(s, first + s, "some sample", "trained") for s in range(count)])
    chain, files = ledger.close(4, "a", lambda value: [value])
    for name, data in files.items():
        store.replace(name, data)
    names = [entry["path"] for entry in chain]
    assert ledger_facts(store, names, 4, [4, 3, 3], True) == {"epochs": 3, "rows": 10}
    with pytest.raises(DamageError, match="epoch 1 has 3 samples of 4"):
        ledger_facts(store, names, 4, [4, 4, 3], True)
    with pytest.raises(DamageError, match="3 epochs of 2"):
        ledger_facts(store, names, 4, [4, 3], True)


def test_a_sample_that_an_epoch_sees_twice_is_found_where_each_is_seen_once(store):
    ledger = SampleLedger(0, ())
    ledger.add(0, 0, 0, [(0, 5, "some sample", "trained"), (1, 5, "some sample", "trained")])
    chain, files = ledger.close(1, "a", lambda value: [value])
    for name, data in files.items():
        store.replace(name, data)
    names = [entry["path"] for entry in chain]
    assert ledger_facts(store, names, 1, [2], False)["rows"] == 2  # a part of weight 2
    with pytest.raises(DamageError, match="sample 5 of epoch 0 was seen twice"):
        ledger_facts(store, names, 1, [2], True)
