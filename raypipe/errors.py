"""Every error raypipe raises on purpose: one tree, each with its remedy and its exit code.

The exit codes are a contract (docs/architecture.md): 0 done, 2 the request is wrong, 3 the data is
over its error budget or under its coverage floor, 4 stopped and resumable, 5 an outside service or
the machine refused, 6 damage found, 1 anything else.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

MAX_LINES = 8
MAX_WIDTH = 1000  # characters of a line; what is quoted from a file may be of any length


class RaypipeError(Exception):
    """An error with a cause a person can act on.

    Args:
        message: what happened, and where.
        remedy: the next step to take, in one or two lines.
    """

    exit_code = 1
    usual = ""  # the next step where an error names none of its own

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.usual

    def __reduce__(self):  # exceptions cross process borders under Ray
        return (type(self), (self.message, self.remedy))

    def render(self) -> str:
        """The text for stderr: at most eight lines, no traceback."""
        lines = [f"error: {self.message}".rstrip()]
        if self.remedy:
            lines.append(f"  try: {self.remedy}")
        flat = [
            line if len(line) <= MAX_WIDTH else f"{line[:MAX_WIDTH]} ..."
            for line in map(printable, "\n".join(lines).splitlines())
        ]
        if len(flat) > MAX_LINES:
            flat = [*flat[: MAX_LINES - 1], "  ..."]
        return "\n".join(flat)


def printable(line: str) -> str:
    r"""A line without what would steer a terminal: names of files and keys may hold anything.

    >>> printable("a\x1b]0;b\x07 c")
    'a\\x1b]0;b\\x07 c'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class RequestError(RaypipeError):
    """The request is wrong: a setting, a name, a missing file. Nothing was started."""

    exit_code = 2


class BudgetError(RaypipeError):
    """Finished, everything good is committed, but too much of the data was bad or left unanswered.

    Args:
        result: what the verb would have returned.
    """

    exit_code = 3

    def __init__(self, message: str, remedy: str = "", result: dict[str, Any] | None = None) -> None:
        super().__init__(message, remedy)
        self.result = result or {}

    def __reduce__(self):
        return (type(self), (self.message, self.remedy, self.result))


class StoppedError(RaypipeError):
    """Stopped before the end; the same command continues."""

    exit_code = 4


class ServiceError(RaypipeError):
    """An outside service or the machine refused: key, quota, disk, memory."""

    exit_code = 5


class DamageError(RaypipeError):
    """What is on disk is not what was committed."""

    exit_code = 6
    usual = "raypipe verify RUN names all that is damaged; a copy of the run, or another out=, goes on"


@contextlib.contextmanager
def remedied(remedy: str) -> Iterator[None]:
    """Names the next step for errors of a kind, where they name none themselves; a decorator, too."""
    try:
        yield
    except RaypipeError as fault:
        fault.remedy = fault.remedy or remedy
        raise


def nearest(name: str, valid: Iterable[str], shown: int = 12) -> str:
    """A sentence that names the valid choices, the nearest one first.

    >>> nearest("pop", ["pope", "gqa"])
    "did you mean 'pope'? valid: gqa, pope"
    """
    choices = sorted(valid)
    close = _closest(name, choices)
    listed = ", ".join(choices[:shown]) + (", ..." if len(choices) > shown else "")
    return (f"did you mean '{close}'? " if close else "") + f"valid: {listed}"


def _closest(name: str, choices: list[str]) -> str | None:
    """The choice with the fewest slips of a key away; one that looks alike where that is too many."""
    slips = {choice: _slips(name.lower(), choice.lower()) for choice in choices}
    best = min(
        choices, key=lambda c: (slips[c], -difflib.SequenceMatcher(None, name, c).ratio()), default=None
    )
    if best is not None and slips[best] <= max(1, len(name) // 4) and slips[best] < len(name):
        return best
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return close[0] if close else None


def _slips(one: str, other: str) -> int:
    """Letters to add, leave out, change, or swap with their neighbour (optimal string alignment).

    >>> _slips("smapling", "sampling"), _slips("frmes", "frames"), _slips("a", "b")
    (1, 1, 1)
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            steps = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                steps = min(steps, before[j - 2] + 1)
            row.append(steps)
        before, last = last, row
    return last[-1]
