"""The sample ledger: which samples every step has seen, one segment a checkpoint.

A checkpoint's record lists the segments that lead to it, so of the segments of several starts exactly one
chain counts, and a sample that was computed twice because of a crash is in it once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from raypipe.store.run import Run
from raypipe.store.shards import encode
from raypipe.store.verify_train import LEDGER, LEDGER_SCHEMA, ledger_facts, segment_name

Seen = tuple[int, int, str, str]  # slot in the global batch, number, id, state


class SampleLedger:
    """What this rank has seen since the last checkpoint, and the segments before it."""

    def __init__(self, first: int, chain: Sequence[dict[str, Any]]) -> None:
        self._first, self._chain = first, list(chain)
        self._rows: list[tuple[int, int, int, int, str, str]] = []

    def add(self, step: int, epoch: int, first: int, seen: Sequence[Seen]) -> None:
        """Notes the samples of this rank's rows in a step (counted from 0).

        Args:
            first: the place in the epoch of the first sample of the step's global batch.
        """
        self._rows += [(step, epoch, first + slot, number, id, state) for slot, number, id, state in seen]

    def close(
        self, step: int, attempt: str, gather: Callable[[Any], list[Any]]
    ) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        """Ends the segment before ``step``; a collective.

        Returns:
            the chain of segments up to here, and the new one's bytes by name.
        """
        rows = sorted(row for part in gather(self._rows) for row in part)
        columns = [[row[place] for row in rows] for place in range(len(LEDGER_SCHEMA))]
        table = pa.table(columns, schema=LEDGER_SCHEMA)
        data, name = encode(table, batch=8192), segment_name(self._first, step, attempt)
        entry = {"path": name, "rows": len(rows), "bytes": len(data)}
        self._chain.append({**entry, "sha256": hashlib.sha256(data).hexdigest()})
        self._first, self._rows = step, []
        return list(self._chain), {name: data}


def check(run: Run) -> dict[str, int]:
    """Proves the ledger of a finished run: each sample once an epoch, in steps without a gap.

    Returns:
        whole ``epochs`` and ``rows``.

    Raises:
        DamageError: it does not prove that.
    """
    manifest = run.manifest
    segments = [e["path"] for e in manifest["files"] if e["path"].startswith(f"{LEDGER}/")]
    facts = manifest["facts"]
    return ledger_facts(
        run.store, segments, manifest["totals"]["steps"], facts["epoch_samples"], facts["each_once"]
    )
