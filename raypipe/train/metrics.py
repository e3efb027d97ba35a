"""The run's metrics.jsonl, written whole by rank 0; a resumed run goes on after its checkpoint."""

from __future__ import annotations

import json
import time
from typing import Any

from raypipe.store.files import Store

METRICS = "metrics.jsonl"
FLUSH_S = 2.0


class MetricLog:
    """Collects one row a step.

    Args:
        first: optimizer steps that the checkpoint holds; later rows of an earlier attempt are dropped.
        active: only rank 0 writes.
    """

    def __init__(self, store: Store, first: int, active: bool) -> None:
        self._store, self._active, self._written = store, active, 0.0
        self._lines: list[str] = []
        if active and first and store.exists(METRICS):
            old = store.read(METRICS).decode().splitlines()
            self._lines = [line for line in old if json.loads(line)["step"] <= first]

    def add(self, row: dict[str, Any]) -> None:
        if self._active:
            self._lines.append(json.dumps(row))
            if time.monotonic() - self._written > FLUSH_S:
                self.flush()

    def flush(self) -> None:
        if self._active:
            self._store.replace(METRICS, ("\n".join(self._lines) + "\n").encode())
            self._written = time.monotonic()
