"""Tries at a unit whose worker may be ended by it.

Ray would try such a unit for ever. Each try is written down before it begins. The first ``WHOLE`` are at the
unit as it was planned, for a worker may be killed by chance. After them its media are taken one by one, each
written down before it is begun: the one that ends its worker then is left out of the next try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.errors import ServiceError
from raypipe.store.files import Store

FOLDER = "attempts"
WHOLE = 2


@dataclass(frozen=True)
class Attempt:
    """One try. ``harmful`` are the places in the unit of those media that have ended a worker alone."""

    store: Store
    name: str
    number: int
    harmful: frozenset[int] = frozenset()

    @property
    def alone(self) -> bool:
        """Whether media are to be taken one by one."""
        return self.number >= WHOLE

    def begins(self, place: int) -> None:
        """Writes down which medium is taken next; the number of media: all are done."""
        self.store.put_new(f"{self.name}/{self.number:04d}.{place:04d}", b"")


def begin(store: Store, step: str, unit: str, media: int) -> Attempt:
    """Writes down a try at one step of a unit of so many media.

    Raises:
        ServiceError: it was tried so often that no medium of it can be the reason.
    """
    name = f"{FOLDER}/{step}/{unit}"
    for number in range(WHOLE + media + 1):
        if store.put_new(f"{name}/{number:04d}", b""):
            marks = store.list(name) if number > WHOLE else []
            return Attempt(store, name, number, _harmful(marks, media))
    raise ServiceError(
        f"the worker died {WHOLE + media + 1} times in unit {unit} ({step}), whichever medium was left out",
        "see whether memory is short (ray list tasks, dmesg), then run the same command: it continues",
    )


def forget(store: Store) -> None:
    """Drops what is known of earlier tries: workers that ended with their driver say nothing."""
    store.delete_many(store.list(FOLDER))


def _harmful(marks: Sequence[str], media: int) -> frozenset[int]:
    """The last medium of each try that is over."""
    last: dict[str, int] = {}
    for mark in marks:
        number, _, place = mark.rpartition("/")[2].partition(".")
        if place:
            last[number] = max(last.get(number, 0), int(place))
    return frozenset(place for place in last.values() if place < media)
