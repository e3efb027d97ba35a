"""The starts of a run as its folder tells them (see recording.py), and whether one is still alive."""

from __future__ import annotations

import json
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

RUNNING, FINISHED, OVER_BUDGET, STOPPED, FAILED, DIED = (
    "running",
    "finished",
    "over budget",
    "stopped",
    "failed",
    "died",
)


@dataclass(frozen=True)
class Start:
    """One start: ``row`` is its record as it was written, parts of it may be missing."""

    number: int
    row: Mapping[str, Any]

    def text(self, name: str) -> str:
        value = self.row.get(name)
        return value if isinstance(value, str) else ""

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
        code = self.row.get("exit_code")
        return code if isinstance(code, int) else None

    def silent_s(self, at: datetime | None = None) -> float:
        """Seconds since its last sign of life, by the clocks of the two hosts."""
        last = self.last_sign
        return max(0.0, ((at or datetime.now(UTC)) - last).total_seconds()) if last else float("inf")

    def state(self, at: datetime | None = None, here: Process | None = None) -> str:
        """RUNNING, or how it ended; of a start on this host its process is asked."""
        code = self.exit_code
        if self.text("ended") and code is not None:
            return {0: FINISHED, 3: OVER_BUDGET, 4: STOPPED}.get(code, FAILED)
        process = self._process()
        if process and process.on_this_host(here or Process.this()):
            alive = process.alive()
        else:
            beat = self.row.get("beat_s")
            patience = PATIENCE_BEATS * (beat if isinstance(beat, int | float) else BEAT_S)
            alive = self.silent_s(at) < patience
        if alive:
            return RUNNING
        return STOPPED if self.part("stopping") else DIED

    def _process(self) -> Process | None:
        row = self.part("process")
        try:
            return Process(str(row["host"]), str(row["here"]), int(row["pid"]), str(row["started"]))
        except (KeyError, TypeError, ValueError):
            return None


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
        raise RequestError(f"not a run folder: {store.root}", "give the out= folder of a raypipe run")
    starts = starts_of(store) if number is None else [Start(number, _read(store, number))]
    if not starts or not starts[-1].row:
        there = numbers(store.list(FOLDER))
        said = f"start {number} of {store.root}" if there else f"{store.root} has no logs"
        remedy = (
            f"its starts are {there[0]} to {there[-1]}"
            if there
            else ("it was made by an older raypipe, or by no verb of the command line")
        )
        raise RequestError(f"no such log: {said}" if there else said, remedy)
    return starts[-1]


def moment(text: str) -> datetime | None:
    """A time as it is written in records; None where it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _read(store: Store, number: int) -> dict[str, Any]:
    try:
        value = json.loads(store.read(f"{FOLDER}/{number:04d}.json"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
