"""The starts of a run as its folder tells them (see recording.py), and whether one is still alive."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raypipe.errors import RequestError
from raypipe.store.files import Store
from raypipe.store.process import Process
from raypipe.store.recording import BEAT_S, FOLDER, numbers
from raypipe.store.run import SETTINGS

PATIENCE_BEATS = 4  # signs of life that may fail to come, from another host

RUNNING, FINISHED, OVER_BUDGET, STOPPED, FAILED, DIED, UNREADABLE = (
    "running",
    "finished",
    "over budget",
    "stopped",
    "failed",
    "died",
    "unreadable",  # its record is torn, or tells neither of an end nor of a life
)


@dataclass(frozen=True)
class Start:
    """One start: ``row`` is its record as it was written; what is missing or odd in it counts as not said."""

    number: int
    row: Mapping[str, Any]

    def text(self, name: str, part: str = "") -> str:
        return _text((self.part(part) if part else self.row).get(name))

    def texts(self, name: str) -> list[str]:
        value = self.row.get(name)
        return [text for text in map(_text, value) if text] if isinstance(value, list) else []

    def part(self, name: str) -> dict[str, Any]:
        value = self.row.get(name)
        return value if isinstance(value, dict) else {}

    @property
    def begun(self) -> datetime | None:
        return moment(self.text("begun"))

    @property
    def last_sign(self) -> datetime | None:
        """When it ended or, as far as it is known, was last alive."""
        return moment(self.text("ended") or self.text("alive"))

    @property
    def exit_code(self) -> int | None:
        return _whole(self.row.get("exit_code"))

    @property
    def pid(self) -> int | None:
        return _whole(self.part("process").get("pid"))

    def silent_s(self, at: datetime | None = None) -> float | None:
        """Seconds since its last sign of life, by the clocks of the two hosts; None where it left none."""
        last = self.last_sign
        return max(0.0, ((at or datetime.now(UTC)) - last).total_seconds()) if last else None

    def state(self, at: datetime | None = None, here: Process | None = None) -> str:
        """RUNNING, or how it ended; of a start on this host its process is asked."""
        code, process = self.exit_code, self._process()
        if code is not None:
            return {0: FINISHED, 3: OVER_BUDGET, 4: STOPPED}.get(code, FAILED)
        silent = self.silent_s(at)
        if self.text("ended") or (process is None and silent is None):
            return UNREADABLE
        if process and process.on_this_host(here or Process.this()):
            alive = process.alive()
        else:
            alive = silent is not None and silent < PATIENCE_BEATS * self._beat_s()
        if alive:
            return RUNNING
        return STOPPED if self.part("stopping") else DIED

    def _beat_s(self) -> float:
        beat = self.row.get("beat_s")
        return beat if isinstance(beat, int | float) and beat > 0 else BEAT_S

    def _process(self) -> Process | None:
        row, pid = self.part("process"), self.pid
        texts = [row.get(name) for name in ("host", "here", "started")]
        if pid is None or not all(isinstance(text, str) for text in texts):
            return None
        host, here, started = map(_text, texts)
        return Process(host, here, pid, started)


def starts_of(store: Store, names: list[str] | None = None) -> list[Start]:
    """All starts, the oldest first; a record that is torn counts, with nothing in it."""
    found = numbers(store.list(FOLDER) if names is None else [n for n in names if n.startswith(f"{FOLDER}/")])
    return [Start(number, _read(store, number)) for number in found]


def text_of(store: Store, start: Start) -> str:
    """What a start has said so far."""
    try:
        return store.read(f"{FOLDER}/{start.number:04d}.txt").decode(errors="replace")
    except FileNotFoundError:
        return ""


def start_of_number(store: Store, number: int | None) -> Start:
    """One start; the newest for None.

    Raises:
        RequestError: there is no such start, or no run.
    """
    if not store.exists(SETTINGS):
        raise RequestError(f"not a run folder: {store.root or '/'}", "give the out= folder of a raypipe run")
    there = numbers(store.list(FOLDER))
    if not there:
        remedy = "it was made by an older raypipe, or by no verb of the command line"
        raise RequestError(f"{store.root} has no logs", remedy)
    if number is not None and number not in there:
        remedy = f"its starts are {there[0]} to {there[-1]}"
        raise RequestError(f"no such log: start {number} of {store.root}", remedy)
    chosen = there[-1] if number is None else number
    return Start(chosen, _read(store, chosen))


def moment(text: str) -> datetime | None:
    """A time as it is written in records; None where it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError:  # the first and the last hours of the calendar, elsewhere
        return None


def _read(store: Store, number: int) -> dict[str, Any]:
    try:
        text = store.read(f"{FOLDER}/{number:04d}.json")
        value = json.loads(text, parse_float=_finite, parse_constant=lambda _: None)
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    """A text that can be printed: JSON can hold halves of characters."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
