"""Rules: what grades a reply without a judge.

A rule is a plain function of the reference and the reply. It sees no question, no model and no file,
so a stored answer can be graded again at any time and gets the same mark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """What a rule makes of one reply: ``value`` in 0..1 and the answer it read."""

    value: float
    parsed: str


Rule = Callable[[str, str], Mark]


@dataclass(frozen=True)
class ExactMatch:
    """Right if what is read from the reply equals the reference, character by character."""

    read: Callable[[str], str]

    def __call__(self, reference: str, reply: str) -> Mark:
        parsed = self.read(reply)
        return Mark(1.0 if parsed == reference else 0.0, parsed)
