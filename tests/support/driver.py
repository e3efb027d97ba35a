"""Drivers in processes of their own, to be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from raypipe.chaos.processes import AGENTS, marked_processes
from tests.support import ROOT


class Driver:
    """A command in a process of its own, with a Ray of its own.

    Args:
        command: what Python is to run: ``-m raypipe.cli prepare FILE``.
        more: of its environment.
    """

    def __init__(self, command: Sequence[str], log: Path, **more: str) -> None:
        self.mark = f"RAYPIPE_TEST_MARK={uuid.uuid4().hex}"
        key, value = self.mark.split("=")
        environ = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        environ |= {"RAYPIPE_DASHBOARD": "0", key: value, **more}
        self.log = log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=environ,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def wait_for(self, folder: Path, count: int, suffix: str = ".json") -> None:
        """Until so many units are committed."""
        deadline = time.monotonic() + 200
        while len([f for f in folder.glob(f"*{suffix}") if not f.name.startswith(".")]) < count:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"{count} units never came"
            time.sleep(0.005)

    def ended(self) -> int:
        """Its exit code, once it, its workers and their decoders are gone by themselves.

        Two agents of Ray outlive a killed driver for a while; they are ended here, by their ids.
        """
        code = self.process.wait(200)
        deadline = time.monotonic() + 30
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in marked_processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert left == [], "its own processes outlived it"
        return code

    def _left(self) -> list[str]:
        """The command lines of what it started, but for Ray's agents."""
        found = []
        for pid in marked_processes(self.mark):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
                if command and not AGENTS.match(command):
                    found.append(command[:300])
        return found
