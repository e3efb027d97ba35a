"""Rows by step, written while a run goes on: segments of bounded size, at the end one JSON-lines file.

S3 cannot append, and a file that is written whole every other second grows to megabytes a minute. So only
the newest segment, at most ``ROWS`` rows, is ever written again. A segment is named by its first step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from raypipe.store.files import Store

ROWS = 256


class Journal:
    """One writer's rows ``{"step": n, ...}``, steps rising, under ``NAME/`` and then in ``NAME.jsonl``."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._open: list[dict[str, Any]] = []
        self._changed = False

    def resume(self, step: int) -> dict[str, Any] | None:
        """Drops the rows after a step, to go on there.

        Returns:
            the newest row that was there, dropped or not; None where there was none.
        """
        whole = f"{self._name}.jsonl"
        if self._store.exists(whole):  # of a run that was finished, or was written by an older raypipe
            self._split(whole)
        names = segments(self._store, self._name)
        before = newest(self._store, self._name)
        over = [name for name in names if _first(name) > step]
        self._store.delete_many(over)
        if left := names[: len(names) - len(over)]:
            found = [row for row in parsed(self._store.read(left[-1])) if row is not None]
            self._open = [row for row in found if row["step"] <= step]
            self._changed = len(self._open) < len(found)
            self.flush()
        return before

    def _split(self, whole: str) -> None:
        """Makes segments of the one file, which is then gone."""
        self.extend([row for row in parsed(self._store.read(whole)) if row is not None])
        self.flush()
        self._open = []
        self._store.delete(whole)

    def extend(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds rows; a segment that is full is written, the newest one at the next flush."""
        for row in rows:
            if len(self._open) >= ROWS:
                self.flush()
                self._open = []
            self._open.append(row)
            self._changed = True

    def flush(self) -> None:
        """Writes what is not in the store yet."""
        if self._changed and self._open:
            name = f"{self._name}/{self._open[0]['step']:09d}.jsonl"
            self._store.replace(name, "".join(dump(row) for row in self._open).encode())
        self._changed = False


def join(store: Store, name: str) -> list[dict[str, Any]]:
    """Puts the segments together to ``NAME.jsonl`` and removes them; returns all rows."""
    names = segments(store, name)
    if names:
        store.replace(f"{name}.jsonl", b"".join(store.read(segment) for segment in names))
        store.delete_many(names)
    return [row for row in rows(store, name) if row is not None]


def rows(store: Store, name: str) -> Iterator[dict[str, Any] | None]:
    """All rows of a journal, finished or not; None for a line that is no JSON object."""
    for part in [f"{name}.jsonl", *segments(store, name)]:
        if store.exists(part):
            yield from parsed(store.read(part))


def newest(store: Store, name: str) -> dict[str, Any] | None:
    """The last row of a journal that is being written; None before the first."""
    names = segments(store, name)
    found = parsed(store.read(names[-1])) if names else iter(())
    return next((row for row in reversed(list(found)) if row is not None), None)


def segments(store: Store, name: str) -> list[str]:
    return [n for n in store.list(name, ".jsonl") if PurePosixPath(n).stem.isdigit()]


def parsed(data: bytes) -> Iterator[dict[str, Any] | None]:
    """The objects of JSON lines; None for a line that is not one."""
    for line in data.decode("utf-8", errors="replace").split("\n"):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            yield row if isinstance(row, dict) else None


def dump(row: dict[str, Any]) -> str:
    """One line; a number that is not finite becomes null, which every JSON reader takes."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(clean) + "\n"


def _first(name: str) -> int:
    return int(PurePosixPath(name).stem)
