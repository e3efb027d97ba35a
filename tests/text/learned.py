"""What a sample teaches: its labels as runs of neighbours."""

from __future__ import annotations

from collections.abc import Iterable

from raypipe.text.chat import IGNORE


def runs(labels: Iterable[int]) -> list[list[int]]:
    found: list[list[int]] = []
    last = None
    for place, label in enumerate(labels):
        if label != IGNORE:
            if last != place - 1 or last is None:
                found.append([])
            found[-1].append(label)
            last = place
    return found
