"""Which processes belong to a run that we started, and how one of them is ended without hitting another.

A start hands its mark to everything that it starts, in the environment. Ray's workers write their titles over
theirs, so a process also belongs to the run when a parent of it does.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raypipe.store.process import DEAD_STATES, start_of

AGENTS = re.compile(r"ray::(Dashboard|RuntimeEnv)Agent")  # they outlive a killed driver for a while
_DECODER = "raypipe.media.sandbox"
_AT_WORK = re.compile(r"^ray::\S*(Map|RayTrainWorker|JudgeActor)")


@dataclass(frozen=True)
class Seen:
    """A process as /proc shows it; ``started`` tells it from a later one with the same number."""

    pid: int
    parent: int
    command: str
    started: str


def marked_processes(mark: str) -> list[int]:
    """The living processes that have ``mark`` in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                there = mark.encode() in (folder / "environ").read_bytes()
                if there and _state(folder)[0] not in DEAD_STATES:
                    found.append(int(folder.name))
    return found


def family(mark: str) -> list[Seen]:
    """The living processes of a run: those with its mark and all below them, by their numbers."""
    everyone = {seen.pid: seen for seen in _everyone()}
    ours = set(marked_processes(mark)) & everyone.keys()
    grown = True
    while grown:
        more = {pid for pid, seen in everyone.items() if seen.parent in ours and pid not in ours}
        grown = bool(more)
        ours |= more
    return [everyone[pid] for pid in sorted(ours)]


def workers(processes: Iterable[Seen]) -> list[Seen]:
    """Ray's workers that carry out our tasks at this moment; idle ones are not among them."""
    return [p for p in processes if _AT_WORK.match(p.command)]


def decoders(processes: Iterable[Seen]) -> list[Seen]:
    """The decoding children of workers that are at work."""
    everyone = list(processes)
    busy = {p.pid for p in workers(everyone)}
    return [p for p in everyone if _DECODER in p.command and p.parent in busy]


def kill(seen: Seen) -> bool:
    """SIGKILL to this very process; False where it has ended, and nothing was hit."""
    try:
        handle = os.pidfd_open(seen.pid)
    except OSError:
        return False
    try:
        if start_of(seen.pid) != seen.started:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _everyone() -> Iterable[Seen]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = _state(folder)
                if fields[0] not in DEAD_STATES:
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    command = words.decode("utf-8", "replace").strip()
                    yield Seen(int(folder.name), int(fields[1]), command, fields[19])


def _state(folder: Path) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the command before them may hold anything."""
    return (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
