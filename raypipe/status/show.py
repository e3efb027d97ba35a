"""A run's status as text for a terminal of 100 columns."""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from raypipe.errors import RequestError, StoppedError, printable
from raypipe.store.starts import DIED, FAILED, FINISHED, RUNNING, STOPPED, UNREADABLE, moment
from raypipe.terminal import duration

WIDTH = 100
BAD = (FAILED, STOPPED, DIED)
REFUSED_CODE, STOPPED_CODE = RequestError.exit_code, StoppedError.exit_code
SHOWN = 6  # starts, the newest
LABEL = 10


def render(status: Mapping[str, Any]) -> str:
    """All of one run."""
    head = f"{status['kind']} {status['name']}: {state_line(status)}"
    rows: list[tuple[str, str]] = [("folder", status["run"]), ("how far", far(status) or "nothing yet")]
    failed_since = status["state"] == FINISHED and status["starts"] and status["starts"][-1]["state"] in BAD
    if status["message"] and (status["state"] in (FAILED, STOPPED) or failed_since):
        rows.append(("said", status["message"]))
    if status["begun"]:
        count = len(status["starts"])
        took = f"{duration(status['seconds'])} in {count} start{'s' if count > 1 else ''}"
        rows.append(("time", f"begun {clock(status['begun'])}, {took}"))
    rows += [("starts" if n == 0 else "", line) for n, line in enumerate(start_lines(status["starts"]))]
    size = status["size"]
    parts = ", ".join(f"{name} {_bytes(n)}" for name, n in size["parts"].items() if n and name != ".")
    whole = f"{size['files']} files, {_bytes(size['bytes'])}"
    rows.append(("size", whole + (f": {parts}" if parts else "")))
    rows += _go_on(status, bool(failed_since))
    if status["state"] != RUNNING and status["starts"]:
        rows.append(("log", f"raypipe logs {status['run']}"))
    lines = [head, *(line for label, text in rows for line in _wrapped(label, text))]
    return "\n".join(map(printable, lines))


def _go_on(status: Mapping[str, Any], failed_since: bool) -> list[tuple[str, str]]:
    """What to do now. The next step of a stopped start is the command that continues: not said twice."""
    if status["state"] == RUNNING:
        return [("log", f"raypipe logs {status['run']} --follow")]
    if status["stopped_early"]:
        return [("next", "its search took others; the search continues with its own command")]
    ended = status["starts"][-1]["exit_code"] if status["starts"] else None
    rows = [("next", status["next"])] if status["next"] and ended not in (0, STOPPED_CODE) else []
    if (status["state"] == FINISHED and not failed_since) or ended == REFUSED_CODE:
        return rows
    lines = status["again"] or [f"the same raypipe {status['kind']} command again"]
    if status["typed_in"] and status["typed_in"] != os.getcwd():  # paths of the command may be relative
        lines = [f"cd {shlex.quote(status['typed_in'])} && {line}" for line in lines]
    return rows + [("continue" if n == 0 else "or", line) for n, line in enumerate(lines)]


def render_many(found: Sequence[Mapping[str, Any]]) -> str:
    """One line a run."""
    rows = []
    for s in found:
        if "kind" in s:
            rows.append([s["state"], s["kind"], s["name"], far(s, short=True) or "-", s["run"]])
        else:
            rows.append([s["state"], "-", "-", "-", s["message"]])
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        printable("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]))
        for row in rows
    )


def state_line(status: Mapping[str, Any]) -> str:
    state, starts, holder = status["state"], status["starts"], status["holder"] or {}
    newest = starts[-1] if starts else None
    alive = next((row for row in reversed(starts) if row["state"] == RUNNING), None)
    if state == RUNNING and alive is None:
        return f"running: process {holder.get('pid')} on {holder.get('host')}"
    if alive is not None:
        silent = status["silent_s"]
        sign = "its process is there" if silent is None else f"sign of life {duration(silent)} ago"
        return f"running: {sign}{_on(alive)}"
    held = f"; host {holder['host']}, pid {holder['pid']}, held it since {holder['since']}" if holder else ""
    if newest is None:
        return "stopped early by its search" if status["stopped_early"] else state + held
    if newest["state"] == UNREADABLE:
        return f"{state}; the record of its newest start cannot be read{held}"
    ago = _ago(newest)
    if state == DIED:
        last = f"last sign of life {clock(newest['last_sign'])}" if ago else "its record tells not when"
        return f"died without a word{ago}, {last}{_on(newest)}"
    if state == STOPPED:
        by = status["stopping"].get("signal", "")
        code = "exit code 4" if newest["exit_code"] == 4 else "killed before it could end"
        return f"stopped{f' by {by}' if by else ''}{ago}, {code}"
    if state == FAILED:
        return f"failed{ago}, exit code {newest['exit_code']}"
    if state == FINISHED and newest["state"] not in (FINISHED, RUNNING):
        code = f"exit code {newest['exit_code']}" if newest["exit_code"] is not None else "no exit code"
        verb = f" ({newest['verb']})" if newest["verb"] else ""
        return f"finished; its newest start{verb}: {newest['state']}{ago}, {code}"
    return f"{state}{ago}" if state == FINISHED else state


def far(status: Mapping[str, Any], *, short: bool = False) -> str:
    """Counts in words: "12 of 40 units, 3 quarantined"."""
    found = []
    for name, value in status["progress"].items():
        if name == "loss":
            found.append(f"loss {value:.4f}" if isinstance(value, float) else "")
        elif isinstance(value, list):
            done, whole = value
            found.append(f"{done} {name}" if whole is None else f"{done} of {whole} {name}")
        elif value or name not in ("failed", "stopped_early", "quarantined"):
            found.append(f"{value} {name.replace('_', ' ')}")
    found = [part for part in found if part]
    if short:
        return ", ".join(found[:2])
    if status["checkpoints"]:
        last = status["checkpoints"]
        found.append(f"newest checkpoint at step {last['newest_step']} ({last['kept']} kept)")
    return ", ".join(found)


def start_lines(starts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The newest starts, one a line, the oldest of them first."""
    shown = starts[-SHOWN:]
    earlier = len(starts) - len(shown)
    rows = []
    for row in shown:
        code = f", exit code {row['exit_code']}" if row["exit_code"] else ""
        job = f"job {row['submission_id']}" if row["submission_id"] else ""
        took, ended = duration(row["seconds"]), f"{row['state']}{code}"
        rows.append([str(row["start"]), clock(row["begun"]), took, ended, row["verb"], _place(row), job])
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(7)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*([f"({earlier} earlier: --json shows all)"] if earlier else []), *lines]


def clock(text: str) -> str:
    """A time as people read it, in UTC."""
    found = moment(text)
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if found else "?"


def _ago(start: Mapping[str, Any]) -> str:
    found = moment(start["last_sign"])
    return f" {duration(max(0.0, (datetime.now(UTC) - found).total_seconds()))} ago" if found else ""


def _place(start: Mapping[str, Any]) -> str:
    known = [start["host"], f"pid {start['pid']}" if start["pid"] is not None else ""]
    return ", ".join(part for part in known if part)


def _on(start: Mapping[str, Any]) -> str:
    place = _place(start)
    return f" on {place}" if place else ""


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"


def _wrapped(label: str, text: str) -> list[str]:
    """Beside its label; a command or a path is never broken."""
    options = {"break_long_words": False, "break_on_hyphens": False}
    whole = label in ("continue", "or", "log", "folder", "starts", "")
    lines = [text] if whole else textwrap.wrap(text, WIDTH - LABEL - 2, **options) or [""]  # type: ignore[arg-type]
    return [f"  {label if n == 0 else '':<{LABEL}}{line}" for n, line in enumerate(lines)]
