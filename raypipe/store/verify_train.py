"""What verify checks of a training run beyond its hashes: by its ledger, each sample once an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.errors import DamageError
from raypipe.store.files import Store
from raypipe.store.shards import Shard

LEDGER = "ledger"
LEDGER_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),  # from 0 on
        ("epoch", pa.int32()),
        ("slot", pa.int64()),  # the place in the epoch's order
        ("number", pa.int64()),  # of the sample in the mixture
        ("id", pa.string()),
        ("state", pa.string()),  # what became of it: used, cut, dropped
    ]
)


def segment_name(first: int, last: int, attempt: str) -> str:
    """The segment of the steps first..last-1 (counted from 0) that a start of the run wrote."""
    return f"{LEDGER}/{first:08d}-{last:08d}-{attempt}.arrow"


def ledger_facts(store: Store, segments: Sequence[str], steps: int, slots: Sequence[int]) -> dict[str, int]:
    """Reads a chain of segments and proves it.

    Args:
        segments: names of segments, of any order.
        steps: optimizer steps that the chain covers.
        slots: places in the order of each epoch; the last number is of all later epochs too.

    Returns:
        ``epochs`` that are whole, and ``rows``: samples seen over all of them and the rest.

    Raises:
        DamageError: a step is missing or told twice, or a place of an epoch is missing or taken twice.
    """
    end, tables = 0, []
    for name in sorted(segments):
        first, last = (int(word) for word in PurePosixPath(name).stem.split("-")[:2])
        table = Shard(store, name, LEDGER_SCHEMA).table()
        told = table.column("step").to_numpy()
        if first != end or not np.array_equal(np.unique(told), np.arange(first, last)):
            raise DamageError(f"{name}: the ledger does not go on from step {end}")
        end = last
        tables.append(table)
    if end != steps:
        raise DamageError(f"the ledger ends at step {end} of {steps}")
    if not tables:
        return {"epochs": 0, "rows": 0}
    whole = pa.concat_tables(tables)
    epoch, slot = whole.column("epoch").to_numpy(), whole.column("slot").to_numpy()
    order = np.lexsort((slot, epoch))
    epoch, slot = epoch[order], slot[order]
    twice = np.flatnonzero((epoch[1:] == epoch[:-1]) & (slot[1:] == slot[:-1]))
    if len(twice):
        raise DamageError(f"place {slot[twice[0]]} of epoch {epoch[twice[0]]} was seen twice")
    counts = np.bincount(epoch)
    sizes = np.asarray([slots[min(e, len(slots) - 1)] for e in range(len(counts))])
    outside = (slot < 0) | (slot >= sizes[epoch])
    short = np.flatnonzero(counts[:-1] != sizes[:-1])
    if outside.any() or len(short):
        which = epoch[outside][0] if outside.any() else short[0]
        raise DamageError(f"epoch {which} has {counts[which]} samples of {sizes[which]}")
    return {"epochs": int((counts == sizes).sum()), "rows": whole.num_rows}


def check_ledger(store: Store, manifest: dict[str, Any], say: Callable[[str], None]) -> None:
    """Proves the ledger of a finished training run; one from before there were ledgers has none."""
    segments = [e["path"] for e in manifest["files"] if e["path"].startswith(f"{LEDGER}/")]
    if not segments and "slots" not in manifest["facts"]:
        return
    try:
        ledger_facts(store, segments, manifest["totals"]["steps"], manifest["facts"]["slots"])
    except DamageError as fault:
        say(fault.message)
