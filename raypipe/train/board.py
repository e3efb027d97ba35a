"""The board of a training run: ranks say where they are, the driver reads it and says who must leave.

A plain object; the driver makes a Ray actor of it, without a CPU, on its own node.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raypipe import errors
from raypipe.errors import RaypipeError, ServiceError

GO, LEAVE = "go", "leave"


@dataclass
class Attempt:
    """One group of workers, from its start to its end."""

    key: str
    number: int
    world: int
    ranks: dict[int, dict[str, Any]] = field(default_factory=dict)
    ended: bool = False


@dataclass
class Watched:
    """What a run met on its way, for its manifest."""

    attempts: int = 0
    worlds: list[int] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)


class Board:
    """What the ranks of all attempts said last, the error that ends the run, and the order to leave.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._attempts: list[Attempt] = []
        self._fault: list[str] | None = None
        self._failures: dict[int, str] = {}
        self._closed = False

    def enter(self, key: str, rank: int, world: int, place: dict[str, Any]) -> str:
        """A rank begins. ``key`` is of its group of workers; ``place`` has host, node and pid.

        Returns:
            LEAVE where the run is over already: an attempt that Ray starts then must end at once.
        """
        if not any(a.key == key for a in self._attempts):
            self._attempts.append(Attempt(key, len(self._attempts) + 1, world))
        start = {"step": 0, "micro": 0, "phase": "start", "samples": [], "warm": False, "still_s": 0.0}
        self._of(key).ranks[rank] = {"rank": rank, **place, **start, "at": self._clock()}
        return LEAVE if self._over(key) else GO

    def post(self, key: str, rank: int, report: dict[str, Any]) -> str:
        """A rank's Status.view(), with its stacks once it has stood still for long."""
        said = self._of(key).ranks[rank]
        for old in ("stacks", "looked_up"):
            said.pop(old, None)
        said.update(report, at=self._clock())
        return LEAVE if self._over(key) else GO

    def look_up(self, key: str, rank: int, found: dict[str, Any]) -> None:
        """What a silent rank left in its mirror: where it is now, while its last sign tells where it was."""
        said = self._of(key).ranks[rank]
        age_s = self._clock() - said["at"]
        if found:
            found = {**found, "still_s": found["still_s"] - age_s}  # as of its last sign, as all the rest
        said.update(found, looked_up=True)

    def put_fault(self, key: str, rank: int, fault: list[str]) -> None:
        """An error that no new attempt can mend; of several the first counts."""
        if self._fault is None:
            self._fault = fault
        self._of(key).ranks[rank]["phase"] = "done"

    def put_failures(self, failures: dict[int, str]) -> list[str] | None:
        """How workers ended, as Ray tells it; returns the error that ends the run, if there is one."""
        if not (self._attempts and self._attempts[-1].ended):
            self._failures = failures
        return self._fault

    def end(self, key: str) -> None:
        """The workers of an attempt are to leave; what Ray makes of it is not its failure."""
        self._of(key).ended, self._failures = True, {}

    def close(self) -> None:
        """All workers are to leave, those of attempts to come too."""
        self._closed = True

    def view(self) -> dict[str, Any]:
        """The newest attempt, and ``age_s``, how long ago each of its ranks was heard of."""
        now = self._clock()
        last = self._attempts[-1] if self._attempts else Attempt("", 0, 0)
        ranks = [{**said, "age_s": now - said["at"]} for _, said in sorted(last.ranks.items())]
        return {
            "key": last.key,
            "attempt": last.number,
            "world": last.world,
            "ended": last.ended or self._closed,
            "ranks": ranks,
            "fault": self._fault,
            "failures": self._failures,
        }

    def _of(self, key: str) -> Attempt:
        return next(a for a in self._attempts if a.key == key)

    def _over(self, key: str) -> bool:
        return self._closed or self._fault is not None or self._of(key).ended


def packed(fault: RaypipeError) -> list[str] | None:
    """An error as plain values; None for one that another attempt may not meet: a service that refused."""
    if isinstance(fault, ServiceError):
        return None
    kind = next(c.__name__ for c in type(fault).__mro__ if c.__module__ == errors.__name__)
    return [kind, fault.message, fault.remedy]


def unpacked(fault: list[str]) -> RaypipeError:
    """The error of its own kind, with its own exit code."""
    kind, message, remedy = fault
    return getattr(errors, kind, RaypipeError)(message, remedy)
