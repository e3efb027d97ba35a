"""CPU seconds of a whole process tree, Ray's processes and children that ended included."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICK = os.sysconf("SC_CLK_TCK")
_SIGCHLD = 1 << 16
_EVERY_S = 0.5


class Seen(NamedTuple):
    """What /proc said of a process: parent, its own CPU seconds, and those of the children it waited for."""

    parent: int
    own_s: float
    waited_s: float


class TreeClock:
    """CPU seconds used so far by this process and all its descendants; call it to read it.

    A child that its parent waited for is in the parent's account. A parent that ignores SIGCHLD (the raylet
    does) waits for nobody, and the kernel forgets its children: a thread looks twice a second, and what such
    a child was last seen with stays counted.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], Seen] = {}  # by process id and start
        self._forgotten = 0.0
        self._ignoring: dict[int, bool] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> TreeClock:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def __call__(self) -> float:
        with self._lock:
            now = dict(_tree(os.getpid()))
            for name, seen in self._last.items():
                if name not in now and self._ignoring.get(seen.parent):
                    self._forgotten += seen.own_s + seen.waited_s
            self._last = now
            for parent in {s.parent for s in now.values()} - self._ignoring.keys():
                self._ignoring[parent] = _ignores_children(parent)
            return self._forgotten + sum(s.own_s + s.waited_s for s in now.values())

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self()


def descendants(root: int) -> set[int]:
    """The ids of all processes below one."""
    return {pid for (pid, _), _ in _tree(root)} - {root}


def peak_mib(pid: int) -> float:
    """The most memory a process has had resident so far, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _tree(root: int) -> Iterator[tuple[tuple[int, int], Seen]]:
    found: dict[tuple[int, int], Seen] = {}
    children: dict[int, list[tuple[int, int]]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                text = file.read()
        except OSError:
            continue  # ended in between
        fields = text[text.rindex(")") + 2 :].split()
        own, waited = (sum(int(f) for f in fields[n : n + 2]) / _TICK for n in (11, 13))
        name = (int(entry), int(fields[19]))
        found[name] = Seen(int(fields[1]), own, waited)
        children.setdefault(int(fields[1]), []).append(name)
    todo = [name for name in found if name[0] == root]
    for name in todo:
        yield name, found[name]
        todo += children.get(name[0], [])


def _ignores_children(pid: int) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("SigIgn") and int(line.split()[1], 16) & _SIGCHLD for line in lines)
