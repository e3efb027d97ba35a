"""Finds verdicts in ledgers by key. Columns, not objects: a million verdicts take about 40 MB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from raypipe.records import Outcome, Verdict, verdicts_of
from raypipe.store.ledger import Ledger

KEY_BYTES = 24
KEPT_SEGMENTS = 4


class VerdictIndex:
    """The verdicts with outcome OK in some ledgers, as they are when this is made."""

    def __init__(self, ledgers: Iterable[Ledger]) -> None:
        self._places: list[tuple[Ledger, str]] = []
        self._rows: dict[int, list[dict[str, object]]] = {}
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
        at = sorted({int(self._at[i]) for a, b in zip(first, last, strict=True) for i in range(a, b)})
        found: dict[str, list[Verdict]] = {}
        for place in at:
            (verdict,) = verdicts_of([self._row(place >> 32, place & 0xFFFFFFFF)])  # type: ignore[list-item]
            found.setdefault(verdict.key, []).append(verdict)
        return found

    def _row(self, segment: int, row: int) -> dict[str, object]:
        if segment not in self._rows:
            if len(self._rows) >= KEPT_SEGMENTS:
                self._rows.pop(next(iter(self._rows)))
            ledger, name = self._places[segment]
            self._rows[segment] = ledger.segment(name)
        return self._rows[segment][row]
