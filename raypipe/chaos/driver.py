"""One start of a verb in a process of its own, with a local Ray of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from raypipe.chaos.processes import AGENTS, Seen, family, kill, marked_processes

LOOK_S = 0.005  # between looks at the run's folder
GONE_S = 30.0  # for what a killed driver leaves behind to end by itself
NO_KEY = "RAYPIPE_CHAOS_NO_KEY"


class Start:
    """A running command of ours.

    Args:
        argv: what ``raypipe`` is given.
        log: takes what it says, after what earlier starts said.
    """

    def __init__(self, argv: list[str], log: Path) -> None:
        self.mark = f"RAYPIPE_CHAOS_MARK={uuid.uuid4().hex}"
        name, value = self.mark.split("=")
        environ = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", NO_KEY)}
        environ |= {"RAYPIPE_DASHBOARD": "0", name: value}
        self.begun = time.monotonic()
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "raypipe.cli", *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environ,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def processes(self) -> list[Seen]:
        return family(self.mark)

    def watch(self, look: Callable[[], None]) -> int:
        """Looks again and again until the command has ended; returns its exit code."""
        while self.running:
            look()
            time.sleep(LOOK_S)
        return self._process.wait()

    def kill(self) -> bool:
        """Ends the driver without warning; False where it has ended by itself."""
        if not self.running:
            return False
        self._process.send_signal(signal.SIGKILL)
        return self._process.wait() == -signal.SIGKILL

    def clear(self) -> None:
        """Waits until all that it started is gone; what stays is ended, by its numbers."""
        deadline = time.monotonic() + GONE_S
        while time.monotonic() < deadline:
            left = self._left()
            if all(AGENTS.match(seen.command) for seen in left):
                break
            time.sleep(0.05)
        for seen in self._left():
            kill(seen)

    def close(self) -> None:
        """Ends it and all that it started, at once."""
        if self.running:
            self._process.kill()
            self._process.wait()
        for seen in self._left():
            kill(seen)

    def _left(self) -> list[Seen]:
        return [seen for seen in family(self.mark) if seen.pid != os.getpid()] if self._any() else []

    def _any(self) -> bool:
        return bool(marked_processes(self.mark))
