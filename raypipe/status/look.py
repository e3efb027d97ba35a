"""Looks at a run folder: one listing, and the few small files that say how far it is and how it ended."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from raypipe.errors import DamageError, RequestError
from raypipe.settings import local
from raypipe.status.progress import progress_of
from raypipe.store.files import FileState
from raypipe.store.lease import holder_of
from raypipe.store.run import COMMIT, Run
from raypipe.store.starts import DIED, FAILED, FINISHED, RUNNING, STOPPED, UNREADABLE, Start, starts_of
from raypipe.store.verify_evaluate import SCORES

UNKNOWN = "not finished"  # and no start has left a record
EARLY = "stopped.json"  # in the folder of a trial that its search gave up
_CHECKPOINT = re.compile(r"^checkpoints/step-(\d+)\.json$")


def status_of(root: str, at: datetime | None = None) -> dict[str, Any]:
    """All that the folder tells of a run.

    Args:
        at: the time that ages are counted from; now unless given.

    Returns:
        ``state`` (running, finished, stopped, failed, died, not finished), ``exit_code``, ``message`` and
        ``next`` of the newest start, ``progress`` by what is counted (pairs are done and all), ``starts``
        (their states also: over budget, unreadable), ``again`` (the command that continues, or the ways to
        submit it; none after a command that was refused), ``typed_in`` (the folder that it was typed in; ""
        of a job), ``stopped_early`` (a trial that its search gave up), ``seconds`` over all starts, ``size``.

    Raises:
        RequestError: not a run folder, or one of a raypipe that wrote another format.
        ServiceError: the store does not answer.
    """
    at = at or datetime.now(UTC)
    run = Run.open(local(root), complete=False)
    files = run.store.states()
    settings = run.settings
    starts = starts_of(run.store, list(files))
    whole = COMMIT in files and (run.kind != "evaluate" or SCORES in files)
    state, newest = _state(run, starts, whole, at)
    rows = [_start_row(start, at) for start in starts]
    ended = newest.exit_code if newest else None
    told = _continuing(starts, newest, at)
    return {
        "run": run.store.root,
        "kind": run.kind,
        "name": settings.get("settings", {}).get("name") or PurePosixPath(run.store.root).name,
        "raypipe": settings.get("raypipe"),
        "state": state,
        "committed": COMMIT in files,
        "exit_code": ended if state != FINISHED else (3 if ended == 3 else 0),
        "message": newest.text("message") if newest else "",
        "next": newest.text("next") if newest else "",
        "stopping": {k: newest.text(k, "stopping") for k in newest.part("stopping")} if newest else {},
        "silent_s": newest.silent_s(at) if newest else None,
        "holder": holder_of(run.store) if newest is None or newest.state(at) == UNREADABLE else None,
        "progress": progress_of(run, list(files), starts),
        "said": newest.text("said", "progress") if newest else "",
        "totals": _totals(run),
        "checkpoints": _checkpoints(files),
        "begun": rows[0]["begun"] if rows else None,
        "seconds": sum(row["seconds"] for row in rows),
        "starts": rows,
        "again": told.texts("again") if told else [],
        "typed_in": "" if told is None or told.text("submission_id") else told.text("folder"),
        "stopped_early": state == UNKNOWN and EARLY in files,
        "size": _sizes(files),
    }


def _state(run: Run, starts: Sequence[Start], whole: bool, at: datetime) -> tuple[str, Start | None]:
    """The run's state, and the start that says it: the one that is alive, else the newest."""
    for start in reversed(starts):
        if start.state(at) == RUNNING:
            return RUNNING, start
    newest = starts[-1] if starts else None
    if whole:
        return FINISHED, newest
    state = newest.state(at) if newest else UNREADABLE
    if state == UNREADABLE:
        holder = holder_of(run.store)
        return (RUNNING if holder and holder["alive"] else UNKNOWN), newest
    return (state if state in (STOPPED, FAILED, DIED) else UNKNOWN), newest


def _continuing(starts: Sequence[Start], newest: Start | None, at: datetime) -> Start | None:
    """The start whose command continues the run: the newest, or the one before a record that is torn."""
    if newest is not None and newest.state(at) == UNREADABLE:
        newest = next((start for start in reversed(starts) if start.state(at) != UNREADABLE), newest)
    return None if newest is None or newest.exit_code == RequestError.exit_code else newest


def _start_row(start: Start, at: datetime) -> dict[str, Any]:
    state = start.state(at)
    begun, last = start.begun, at if state == RUNNING else start.last_sign
    return {
        "start": start.number,
        "state": state,
        "exit_code": start.exit_code,
        "message": start.text("message"),
        "begun": start.text("begun"),
        "ended": start.text("ended"),
        "last_sign": start.text("ended") or start.text("alive"),
        "seconds": max(0.0, (last - begun).total_seconds()) if begun and last else 0.0,
        "verb": start.text("verb"),
        "command": start.text("command"),
        "host": start.text("host", "process"),
        "pid": start.pid,
        "user": start.text("user"),
        "submission_id": start.text("submission_id"),
        "cluster": start.part("cluster"),
        "software": start.part("software"),
    }


def _totals(run: Run) -> dict[str, Any]:
    if not run.complete:
        return {}
    try:
        totals = run.manifest.get("totals")
    except DamageError:
        return {}
    return totals if isinstance(totals, dict) else {}


def _checkpoints(files: Mapping[str, FileState]) -> dict[str, Any]:
    steps = sorted(int(found[1]) for name in files if (found := _CHECKPOINT.match(name)))
    return {"newest_step": steps[-1], "kept": len(steps)} if steps else {}


def _sizes(files: Mapping[str, FileState]) -> dict[str, Any]:
    parts: Counter[str] = Counter()
    for name, state in files.items():
        parts[name.partition("/")[0] if "/" in name else "."] += state.size
    return {"files": len(files), "bytes": parts.total(), "parts": dict(parts.most_common())}
