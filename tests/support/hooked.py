"""Units that leave marks while they are carried out, go slowly, or end their worker; media that do harm."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from raypipe.media.sandbox import Sandbox
from raypipe.prepare import work
from raypipe.prepare.units import UnitRef
from raypipe.prepare.work import Work
from raypipe.settings import DecodeLimits

# The decode child's real main loop, with a decoder that does harm when it is asked for a file named so.
CHILD = """
import ctypes, os, time
from raypipe.media import sandbox

real = sandbox.decode

def decode(request):
    name = os.path.basename(request.path)
    if name.startswith("slow"):
        open(f"{request.root}/{request.path}.child-{os.getpid()}", "w").close()
        time.sleep(0.6)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("segv"):
        ctypes.string_at(0)
    if name.startswith("eat"):
        hoard = bytearray(64 << 30)
    return real(request)

sandbox.decode = decode
sandbox._serve()
"""

# The same, and each try at a harmful file is written down beside it.
HARM = CHILD.replace(
    '    if name.startswith("hang"):',
    """    if name.startswith(("hang", "segv", "eat")):
        with open(f"{request.root}/{request.path}.tries", "ab") as tries:
            tries.write(b".")
    if name.startswith("hang"):""",
)


class Harmful(Sandbox):
    """A sandbox whose child has the decoder above."""

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        return self._child


@dataclass(frozen=True)
class Hooked(Work):
    """Work that writes ``folder/UNIT.TIME.PID.begun`` before a unit and ``.ended`` after it."""

    folder: str = ""
    slow_s: float = 0.0
    harmful: bool = False
    deadly: bool = False

    def __call__(self, ref: UnitRef) -> dict[str, Any]:
        mark = Path(self.folder) / f"{ref.id}.{time.monotonic_ns()}.{os.getpid()}"
        Path(f"{mark}.begun").touch()
        if self.deadly:
            os._exit(1)
        time.sleep(self.slow_s)
        if not self.harmful:
            record = super().__call__(ref)
        else:
            with Harmful(self.settings.limits) as sandbox, mock.patch.object(work, "shared_sandbox") as made:
                made.side_effect = lambda limits: _same(sandbox, limits)
                record = super().__call__(ref)
        Path(f"{mark}.ended").touch()
        return record


def _same(sandbox: Sandbox, limits: DecodeLimits) -> Sandbox:
    assert sandbox.limits == limits
    return sandbox


@dataclass(frozen=True)
class Mark:
    """One attempt at a unit."""

    unit: str
    at: int
    pid: int
    ended: bool


def marks(folder: Path) -> list[Mark]:
    """The attempts so far, in the order in which they were begun."""
    found = []
    for file in folder.glob("*.begun"):
        unit, at, pid, _ = file.name.split(".")
        found.append(Mark(unit, int(at), int(pid), file.with_suffix(".ended").exists()))
    return sorted(found, key=lambda m: m.at)


class Killer(threading.Thread):
    """Kills, without warning, the workers of the first attempts at some units while they are at work."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.count = folder, count
        self.killed: list[Mark] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while len(self.killed) < self.count and not self.stop.wait(0.02):
            hit = {m.unit for m in self.killed} | {m.pid for m in self.killed}
            for mark in marks(self.folder):
                if not mark.ended and mark.unit not in hit and mark.pid not in hit:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(mark.pid, signal.SIGKILL)
                        self.killed.append(mark)
                    break

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()
