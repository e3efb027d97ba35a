"""Looks at a run's folder and does the harm that is due: no clock decides, only what is committed."""

from __future__ import annotations

import contextlib
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from raypipe.chaos.case import Case
from raypipe.chaos.driver import Start
from raypipe.chaos.processes import decoders, kill, workers
from raypipe.chaos.schedule import COMMITTED, DECODER, DRIVER, READ, WORKER, Kill
from raypipe.store.files import Store
from raypipe.store.journal import newest

_COUNTED = {"prepare": ("units", ".json"), "evaluate": ("predictions", ".arrow")}


def committed(case: Case) -> int:
    """How many units are committed; of a stage, the step of its newest checkpoint."""
    if case.verb == "train":
        steps = [int(n[5:13]) for n in _names(case.out / "checkpoints") if n.endswith(".json")]
        return max(steps, default=0)
    folder, suffix = _COUNTED[case.verb]
    return sum(name.endswith(suffix) for name in _names(case.out / folder))


class Nemesis:
    """The harm done to one run, over all its starts.

    Attributes:
        fired: the kills that hit a process, with how much was committed.
        killed_from: the last step that could be seen to be done when a kill fell.
    """

    def __init__(self, case: Case, schedule: Sequence[Kill], seed: int, tell: Callable[[str], None]) -> None:
        self._case, self._due, self._seed, self._tell = case, list(schedule), seed, tell
        self.fired: list[tuple[Kill, int]] = []
        self.killed_from: list[int] = []
        self._attempts: set[tuple[int, str]] = set()
        self._stale: set[tuple[str, int]] = set()
        self._starts = 0

    @property
    def twice(self) -> dict[str, int]:
        """Tries at units beyond the first of each, by step of the work."""
        tries: dict[str, set[tuple[int, str]]] = defaultdict(set)
        for start, name in self._attempts:
            tries[_step(name)].add((start, name))
        return {
            step: len(found) - len({_unit(name) for _, name in found})
            for step, found in sorted(tries.items())
        }

    def follow(self, start: Start) -> int | None:
        """Watches a start to its end; its exit code, or None where it was killed by this."""
        self._starts += 1
        self._stale = set(self._marks())  # of the start before; they are removed when the next one is at work
        died = False

        def look() -> None:
            nonlocal died
            self._note()
            done = {READ: self._read(), COMMITTED: committed(self._case)}
            for due in [k for k in self._due if k.at <= done[k.counted]]:
                if self._strike(due, start):
                    self._due.remove(due)
                    self.fired.append((due, done[due.counted]))
                    self._tell(f"{due.fault} killed with {done[due.counted]} {due.counted}")
                    died = died or due.fault == DRIVER
                    return

        code = start.watch(look)
        self._note()
        return None if died else code

    def _read(self) -> int:
        """How many units' media were begun to be read, over all starts."""
        return sum(_step(name) == "read" for _, name in self._attempts)

    def _strike(self, due: Kill, start: Start) -> bool:
        if self._case.verb == "train":
            row = newest(Store(str(self._case.out)), "metrics")
            seen = int(row["step"]) if row else 0
        if due.fault == DRIVER:
            hit = start.kill()
        else:
            found = {WORKER: workers, DECODER: decoders}[due.fault](start.processes())
            luck = random.Random(f"{self._seed}/{due.fault}/{due.at}")  # noqa: S311 - no secret
            hit = bool(found) and kill(luck.choice(found))
        if hit and self._case.verb == "train":
            self.killed_from.append(seen)
        return hit

    def _note(self) -> None:
        self._attempts |= {(self._starts, mark[0]) for mark in self._marks() if mark not in self._stale}

    def _marks(self) -> Iterator[tuple[str, int]]:
        """The tries that are written down at the moment, with when that was."""
        root = self._case.out / "attempts"
        for folder, _, names in os.walk(root):
            for name in names:
                if "." not in name:
                    file = Path(folder) / name
                    with contextlib.suppress(FileNotFoundError):
                        yield str(file.relative_to(root)), file.stat().st_mtime_ns


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except FileNotFoundError:
        return []


def _step(attempt: str) -> str:
    """Of ``UNIT-2`` of prepare, ``read/UNIT/0002`` and ``answer/UNIT/0002`` of evaluate."""
    return attempt.split("/")[0] if "/" in attempt else "decode"


def _unit(attempt: str) -> str:
    return attempt.split("/")[1] if "/" in attempt else attempt.rpartition("-")[0]
