"""Progress for people: a live line in a terminal, a plain line every so often elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO

QUIET_S = 30.0


class Listener(Protocol):
    """Hears what is told to people, to keep it."""

    def line(self, text: str) -> None:
        """A line that stays."""

    def progress(self, title: str, text: str, counts: dict[str, Any]) -> None:
        """How far a step is, as often as it says so; ``counts`` are the same in numbers."""


_listeners: list[Listener] = []


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within it the listener hears all steps of this process."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(text: str) -> None:
    """Tells the listeners what is shown elsewhere: a result, an error."""
    for listener in tuple(_listeners):
        for line in text.splitlines():
            listener.line(line)


class Line(Protocol):
    """Something that can say how far it is, in one line and in numbers."""

    def line(self) -> str: ...

    def counts(self) -> dict[str, Any]: ...


class Step:
    """One step of work: its title, how far it is, how long it took. Writes to stderr.

    Use as a context manager; ``note`` may be called as often as one likes. Away from a terminal the last note
    is written again every ``every_s``, so that a log shows that the work goes on.
    """

    def __init__(self, title: str, every_s: float = QUIET_S, out: TextIO | None = None) -> None:
        self._title, self._every, self._out = title, every_s, out or sys.stderr
        self._live = self._out.isatty()
        self._started = self._shown = time.monotonic()
        self._last = ""
        self._over = threading.Event()

    def __enter__(self) -> Step:
        self._write(f"{self._title} ...")
        tell(f"{self._title} ...")
        if not self._live:
            threading.Thread(target=self._repeat, name="progress", daemon=True).start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._over.set()
        if kind is None:
            took = f"{time.monotonic() - self._started:.1f} s"
            line = f"{self._title}: {self._last + ', ' if self._last else ''}{took}"
            self._write(line, final=True)
            tell(line)
        elif self._live:
            self._out.write("\n")

    def note(self, text: str, counts: dict[str, Any] | None = None) -> None:
        """What is shown beside the title; on a terminal at once, elsewhere now and then."""
        self._last = text
        for listener in tuple(_listeners):
            listener.progress(self._title, text, counts or {})
        now = time.monotonic()
        if now - self._shown >= (0.1 if self._live else self._every):
            self._shown = now
            self._write(f"{self._title}: {text}")

    def event(self, text: str) -> None:
        """A line of its own, at once, that stays: something a person must know of."""
        line = f"{self._title}: {text}"
        self._write(line, final=True, whole=True)
        tell(line)

    def count(self, unit: str) -> Callable[[int, int], None]:
        """A callback (done, all) that shows counts, rate and time left."""

        def tell(done: int, total: int) -> None:
            took = time.monotonic() - self._started
            rate = done / took if took > 0 else 0.0
            left = f", {(total - done) / rate:.0f} s left" if 0 < done < total and rate else ""
            self.note(f"{done}/{total} {unit}, {rate:.1f}/s{left}", {unit: [done, total]})

        return tell

    def lines(self, state: Line) -> None:
        """Shows what tells its own line."""
        self.note(state.line(), state.counts())

    def training(self, row: dict[str, Any]) -> None:
        """Shows a row of metrics.jsonl; on a narrow terminal what matters least is left out."""
        counts = {"steps": [row["step"], row["steps"]], "loss": row.get("loss")}
        self.note(training_line(row, self._room()), counts)

    def _room(self) -> int:
        """Columns beside the title."""
        return (self._columns() if self._live else 10**6) - len(self._title) - 2

    def _columns(self) -> int:
        """Columns of the terminal that a line may fill without wrapping."""
        try:
            return os.get_terminal_size(self._out.fileno()).columns - 1
        except (OSError, ValueError, AttributeError):
            return shutil.get_terminal_size((200, 24)).columns - 1

    def _repeat(self) -> None:
        while not self._over.wait(self._every):
            now = time.monotonic()
            if now - self._shown >= self._every:
                self._shown = now
                took = f"{now - self._started:.0f} s so far"
                self._write(f"{self._title}: {self._last + ', ' if self._last else ''}{took}")

    def _write(self, text: str, final: bool = False, whole: bool = False) -> None:
        if self._live:
            width = None if whole else self._columns()
            self._out.write(f"\r\x1b[2K{text[:width]}" + ("\n" if final else ""))
        else:
            self._out.write(text + "\n")
        self._out.flush()


def training_line(row: dict[str, Any], width: int) -> str:
    """How far training is, in at most ``width`` columns: loss, rate, speed, MFU, waiting, time left.

    Speeds are means over the last steps. MFU is "-" where no peak of the device is known.
    """

    def number(key: str, form: str) -> str:
        value = row.get(f"{key}_mean", row.get(key))
        return "-" if value is None else format(value, form)

    left = row.get("eta_s")
    parts = [  # (how soon it is left out, 0 never; text)
        (0, f"step {row['step']}/{row['steps']}"),
        (0, f"loss {number('loss', '.4f')}"),
        (5, f"rate {number('lr', '.2e')}"),
        (2, f"{number('tokens_s', ',.0f')} tokens/s"),
        (6, f"{number('samples_s', ',.1f')} samples/s"),
        (4, f"MFU {number('mfu', '.1%')}"),
        (3, f"data wait {number('data_wait', '.0%')}"),
        (1, f"{duration(left)} left" if left is not None else ""),
        (7, row.get("validation", "")),
    ]
    kept = [(order, text) for order, text in parts if text]
    while len(line := ", ".join(text for _, text in kept)) > width:
        last = max(order for order, _ in kept)
        if last == 0:
            break
        kept = [(order, text) for order, text in kept if order != last]
    return line


def duration(seconds: float) -> str:
    """Two units, the larger first.

    >>> duration(42), duration(3 * 60 + 7), duration(26 * 3600 + 120)
    ('42 s', '3 min 07 s', '1 d 2 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
