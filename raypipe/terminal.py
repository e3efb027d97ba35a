"""Progress for people: a live line in a terminal, a plain line every so often elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

QUIET_S = 30.0


class Line(Protocol):
    """Something that can say in one line how far it is."""

    def line(self) -> str: ...


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
        if not self._live:
            threading.Thread(target=self._repeat, name="progress", daemon=True).start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._over.set()
        if kind is None:
            took = f"{time.monotonic() - self._started:.1f} s"
            self._write(f"{self._title}: {self._last + ', ' if self._last else ''}{took}", final=True)
        elif self._live:
            self._out.write("\n")

    def note(self, text: str) -> None:
        """What is shown beside the title; on a terminal at once, elsewhere now and then."""
        self._last = text
        now = time.monotonic()
        if now - self._shown >= (0.1 if self._live else self._every):
            self._shown = now
            self._write(f"{self._title}: {text}")

    def count(self, unit: str) -> Callable[[int, int], None]:
        """A callback (done, all) that shows counts, rate and time left."""

        def tell(done: int, total: int) -> None:
            took = time.monotonic() - self._started
            rate = done / took if took > 0 else 0.0
            left = f", {(total - done) / rate:.0f} s left" if 0 < done < total and rate else ""
            self.note(f"{done}/{total} {unit}, {rate:.1f}/s{left}")

        return tell

    def lines(self, state: Line) -> None:
        """Shows what tells its own line."""
        self.note(state.line())

    def training(self, row: dict[str, Any]) -> None:
        """Shows a row of metrics.jsonl."""
        speed = row["tokens"] / row["step_s"] if row["step_s"] else 0.0
        waits = 100 * row["data_wait_s"] / row["step_s"] if row["step_s"] else 0.0
        self.note(
            f"step {row['step']:.0f}/{row['steps']:.0f}, loss {row['loss']:.4f}, rate {row['lr']:.2e}, "
            f"{speed:,.0f} tokens/s, data wait {waits:.0f} %"
            + (f"; {row['validation']}" if row.get("validation") else "")
        )

    def _repeat(self) -> None:
        while not self._over.wait(self._every):
            now = time.monotonic()
            if now - self._shown >= self._every:
                self._shown = now
                took = f"{now - self._started:.0f} s so far"
                self._write(f"{self._title}: {self._last + ', ' if self._last else ''}{took}")

    def _write(self, text: str, final: bool = False) -> None:
        if self._live:
            self._out.write(f"\r\x1b[2K{text[:200]}" + ("\n" if final else ""))
        else:
            self._out.write(text + "\n")
        self._out.flush()
