"""Which process this is, and whether another one is still there: across reboots and reused ids."""

from __future__ import annotations

import functools
import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path

DEAD_STATES = "ZXx"  # ended, whether or not its parent has taken note


@dataclass(frozen=True)
class Process:
    """A process of one boot of one host.

    ``here`` is the boot (and, in containers, the process id space) that ``pid`` counts in;
    ``started`` tells a process from a later one with the same id (clock ticks since the boot).
    """

    host: str
    here: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> Process:
        return cls(socket.gethostname(), _here(), os.getpid(), start_of(os.getpid()) or "")

    def on_this_host(self, other: Process) -> bool:
        return (self.host, self.here) == (other.host, other.here)

    def alive(self) -> bool:
        """Whether it is still there; only for a process of this host."""
        started = start_of(self.pid)
        return started is not None and (not self.started or started == self.started)


def user() -> str:
    """Whose process this is; "" for a number without a name, as containers have it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


@functools.cache
def _here() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def start_of(pid: int) -> str | None:
    """When a process started; "" where the system does not say, None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if os.path.isdir("/proc/self") else _start_without_proc(pid)
    # The command stands in brackets and may hold anything; the state is field 3, the start field 22.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in DEAD_STATES else fields[19]


def _start_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    return ""
