"""What a rank is doing at this moment: written by its loop, read by the thread that tells the driver.

A copy lies in a small file on the rank's node, so that it can be read of a process that says nothing more.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypipe.store.process import start_of

MIRROR_BYTES = 16384
SHOWN = 32  # samples of a micro-batch that a report names
ID_CHARS = 200


@dataclass
class Status:
    """Step, phase and samples of a rank; setting it costs a few microseconds.

    ``phase`` is one of start, data, sum, forward, backward, step, checkpoint, done. ``samples`` are those of
    the micro-batch at work, ``reading`` the one that the loader took up last. ``warm`` says that this process
    has a step behind it, ``checkpoints`` how many it has begun. ``moved`` and ``read`` are the
    monotonic times of the last changes.
    """

    step: int = 0
    micro: int = 0
    phase: str = "start"
    samples: tuple[str, ...] = ()
    reading: str = ""
    warm: bool = False
    checkpoints: int = 0
    moved: float = field(default_factory=time.monotonic)
    read: float = 0.0
    _mirror: mmap.mmap | None = None

    def at(
        self,
        phase: str,
        *,
        step: int | None = None,
        micro: int | None = None,
        samples: tuple[str, ...] | None = None,
    ) -> None:
        """Says where the loop is now; what is not given stays."""
        if step is not None:
            self.warm = self.warm or (self.phase != "start" and step != self.step)
            self.step = step
        self.checkpoints += phase == "checkpoint" and self.phase != "checkpoint"
        self.phase = phase
        if micro is not None:
            self.micro = micro
        if samples is not None:
            self.samples = samples
        self.moved = time.monotonic()
        self._copy()

    def reads(self, sample: str) -> None:
        """Says which sample the loader takes up; called from its thread."""
        self.reading, self.read = sample, time.monotonic()
        if self.phase == "data":
            self._copy()

    def view(self) -> dict[str, Any]:
        """Plain values; ``still_s`` is how long nothing has changed.

        While the loop waits for data the loader moves for it, and its sample is the one at work.
        """
        waits = self.phase == "data"
        names = ((self.reading,) if self.reading else ()) if waits else self.samples
        return {
            "step": self.step,
            "micro": self.micro,
            "phase": self.phase,
            "samples": [name[:ID_CHARS] for name in names[:SHOWN]],
            "warm": self.warm,
            "still_s": time.monotonic() - (max(self.moved, self.read) if waits else self.moved),
        }

    def mirror(self, folder: Path | None = None) -> None:
        """Keeps a copy in a file named by this process's id from now on."""
        folder = folder or mirrors()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():  # somebody else's: do without
            return
        for old in folder.iterdir():  # of processes that were killed
            if old.name.isdigit() and start_of(int(old.name)) is None:
                old.unlink(missing_ok=True)
        file = folder / str(os.getpid())
        file.write_bytes(b"\0" * MIRROR_BYTES)
        with open(file, "r+b") as handle:
            self._mirror = mmap.mmap(handle.fileno(), MIRROR_BYTES)
        self._copy()

    def unmirror(self, folder: Path | None = None) -> None:
        """Removes this process's file."""
        self._mirror = None
        ((folder or mirrors()) / str(os.getpid())).unlink(missing_ok=True)

    def _copy(self) -> None:
        if self._mirror is not None:
            view = self.view()
            view["since"] = time.monotonic() - view.pop("still_s")
            data = json.dumps(view).encode()[: MIRROR_BYTES - 1] + b"\0"
            self._mirror[: len(data)] = data


def mirrors() -> Path:
    """Where the ranks of this user on this node keep their copies."""
    return Path(tempfile.gettempdir()) / f"raypipe-ranks-{os.getuid()}"


def mirrored(pid: int, folder: Path | None = None) -> dict[str, Any] | None:
    """What a process of this node said last; None where there is nothing readable.

    The monotonic clock is the node's, so the time since then is right in another process too.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        view = json.loads(((folder or mirrors()) / str(pid)).read_bytes().partition(b"\0")[0])
        view["still_s"] = time.monotonic() - view.pop("since")
        return view
    return None
