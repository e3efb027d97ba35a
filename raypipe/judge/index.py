"""Finds verdicts in ledgers by key. Columns, not objects: a million verdicts take about 40 MB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypipe.records import Outcome, Verdict, verdicts_of
from raypipe.store.ledger import Ledger

KEY_BYTES = 24
KEPT_SEGMENTS = 4


class VerdictIndex:
    """The verdicts with outcome OK in some ledgers, as they are when this is made."""

    def __init__(self, ledgers: Iterable[Ledger]) -> None:
        self._places: list[tuple[Ledger, str]] = []
        self._tables: dict[int, pa.Table] = {}
        keys: list[NDArray[np.bytes_]] = []
        places: list[NDArray[np.int64]] = []
        for ledger in ledgers:
            for name in sorted(ledger.names()):
                table = ledger.table(name).select(["key", "outcome"])
                good = np.array(table.column("outcome").to_pylist()) == str(Outcome.OK)
                rows = np.flatnonzero(good)
                if len(rows):
                    keys.append(np.array(table.column("key").to_pylist(), dtype=f"S{KEY_BYTES}")[rows])
                    places.append(rows | (len(self._places) << 32))
                    self._places.append((ledger, name))
        found = np.concatenate(keys) if keys else np.empty(0, dtype=f"S{KEY_BYTES}")
        order = np.argsort(found, kind="stable")
        self._keys = found[order]
        self._at = (np.concatenate(places) if places else np.empty(0, dtype=np.int64))[order]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: Sequence[str]) -> dict[str, list[Verdict]]:
        """All verdicts with these keys; a key without one is left out."""
        if not len(self._keys) or not keys:
            return {}
        wanted = np.array(keys, dtype=f"S{KEY_BYTES}")
        first = np.searchsorted(self._keys, wanted, side="left")
        last = np.searchsorted(self._keys, wanted, side="right")
        at = np.array([self._at[i] for a, b in zip(first, last, strict=True) for i in range(a, b)], np.int64)
        at = np.unique(at)
        found: dict[str, list[Verdict]] = {}
        for segment in np.unique(at >> 32).tolist():
            rows = at[(at >> 32) == segment] & 0xFFFFFFFF
            for verdict in verdicts_of(self._table(segment).take(pa.array(rows)).to_pylist()):
                found.setdefault(verdict.key, []).append(verdict)
        return found

    def _table(self, segment: int) -> pa.Table:
        if segment not in self._tables:
            if len(self._tables) >= KEPT_SEGMENTS:
                self._tables.pop(next(iter(self._tables)))
            ledger, name = self._places[segment]
            self._tables[segment] = ledger.table(name)
        return self._tables[segment]
