"""The run's measurements, written by rank 0 beside the step: the journal, TensorBoard, counters.

The loop hands over a row and goes on; a thread of its own writes every other second. A resumed run goes on
after its checkpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from raypipe.store.files import Store
from raypipe.store.journal import Journal
from raypipe.train.meter import Meter

METRICS = "metrics"  # the journal's name: metrics/ while it is written, metrics.jsonl at the end
FLUSH_S = 2.0


class Sink(Protocol):
    """Something else that takes rows; called from the writing thread."""

    def add(self, rows: Sequence[dict[str, Any]]) -> None: ...

    def flush(self, final: bool) -> None: ...


class MetricLog:
    """Takes one row a step.

    Args:
        first: optimizer steps that the checkpoint holds; later rows of an earlier attempt are dropped.
        active: only rank 0 writes.
        world: the number of workers, noted in each row.
    """

    def __init__(
        self,
        store: Store,
        first: int,
        active: bool,
        *,
        world: int = 1,
        meter: Meter | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self._active, self._sinks, self._meter = active, sinks, meter or Meter(world)
        self._journal = Journal(store, METRICS)
        self._pending: list[dict[str, Any]] = []
        self._fault: BaseException | None = None
        self._taking, self._writing = threading.Lock(), threading.Lock()
        self._over = threading.Event()
        self._facts: dict[str, Any] = {"world": world, "attempt": 1}
        self._said_once = {"mfu_convention": self._meter.convention}  # in the first row of an attempt
        if active:
            last = self._journal.resume(first)
            self._facts["attempt"] = int(last.get("attempt", 1)) + 1 if last else 1
            threading.Thread(target=self._write, name="metrics", daemon=True).start()

    def add(self, row: dict[str, Any]) -> None:
        """Takes a row; costs some microseconds.

        Raises:
            ServiceError: an earlier row could not be written.
        """
        if self._active:
            self._raise()
            with self._taking:
                self._pending.append({**self._meter(row), **self._facts, **self._said_once})
                self._said_once = {}

    def flush(self, final: bool = False) -> None:
        """Returns when all rows are in the store."""
        if self._active:
            self._raise()
            self._put(final)

    def close(self) -> None:
        """Writes the rest and ends the thread."""
        self._over.set()
        self.flush(final=True)

    def _put(self, final: bool = False) -> None:
        with self._writing:
            with self._taking:
                rows, self._pending = self._pending, []
            self._journal.extend(rows)
            self._journal.flush()
            for sink in self._sinks:
                sink.add(rows)
                sink.flush(final)

    def _write(self) -> None:
        while not self._over.wait(FLUSH_S):
            try:
                self._put()
            except Exception as fault:
                self._fault = fault
                return

    def _raise(self) -> None:
        if self._fault is not None:
            raise self._fault
