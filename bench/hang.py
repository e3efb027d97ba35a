"""What a clip that hangs its decoder costs: the real sandbox, its child stopped in the middle of the clip."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.decoding import request_of
from bench.tree import descendants
from raypipe.media.sandbox import Sandbox
from raypipe.records import Medium, Reason, Rejection
from raypipe.settings import DecodeLimits

LIMIT_S = 8.0  # without a sign of life
_LOOK_S = 0.005


def hung_once(clip: Path, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of one whole clip in a warm child, and of the same clip hanging on every try.

    Raises:
        AssertionError: it was not put in quarantine for its time.
    """
    request = request_of(clip)
    with Sandbox(DecodeLimits(stall_s=LIMIT_S)) as sandbox:
        sandbox.decode(request)
        clean_cpu, clean_wall, made = _cost(lambda: sandbox.decode(request), clock)
        if not isinstance(made, Medium):
            raise AssertionError(f"the whole clip was refused: {made}")
        with _stopped_while_open(clip) as stopped:
            cpu, wall, found = _cost(lambda: sandbox.decode(request), clock)
        if not isinstance(found, Rejection) or found.reason is not Reason.DECODER_TIMEOUT or len(stopped) < 2:
            raise AssertionError(f"the hang did not fire: {found}, {len(stopped)} children stopped")
        # The child after the hang starts anew: a start is part of what a hang costs.
        after_cpu, _, _ = _cost(lambda: sandbox.decode(request), clock)
    return {
        "limit_s": LIMIT_S,
        "children_stopped": len(stopped),
        "clean_cpu_s": round(clean_cpu, 3),
        "clean_wall_s": round(clean_wall, 3),
        "hang_wall_s": round(wall, 3),
        "extra_cpu_s": round(cpu + after_cpu - clean_cpu, 3),
    }


def _cost(work: Callable[[], object], clock: Callable[[], float]) -> tuple[float, float, object]:
    cpu, wall = clock(), time.perf_counter()
    made = work()
    return clock() - cpu, time.perf_counter() - wall, made


@contextlib.contextmanager
def _stopped_while_open(clip: Path) -> Iterator[set[int]]:
    """Stops every child of this process that has the clip open, as a decoder that waits for ever would be."""
    stopped: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_S):
            for pid in descendants(os.getpid()) - stopped:
                if _has_open(pid, clip):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                        stopped.add(pid)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield stopped
    finally:
        done.set()
        thread.join()


def _has_open(pid: int, file: Path) -> bool:
    try:
        return any(os.path.samefile(f"/proc/{pid}/fd/{fd}", file) for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False
