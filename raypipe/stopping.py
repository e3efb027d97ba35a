"""Ctrl-C, SIGTERM and ``ray job stop``: the work ends in good order, with exit code 4, and in time.

What stops a submitted job kills it some seconds after the signal. Nothing is lost by that, for every step of
the work is committed by itself; but the exit code and the command that continues would be. So a job that has
not come to its end shortly before says both and goes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from raypipe.ending import Command, ending_of, submission_id
from raypipe.errors import StoppedError

JOB_WAIT_S = 3.0  # Ray's own, where RAY_JOB_STOP_WAIT_TIME_S does not say otherwise
SPARE_S = 1.0


def listen(command: Command) -> None:
    """Ctrl-C or SIGTERM ends the work by KeyboardInterrupt; a second one ends the process at once."""
    heard = threading.Event()

    def stop(number: int, *_: object) -> None:
        if heard.is_set():
            os._exit(StoppedError.exit_code)
        heard.set()
        if recording := _recording():
            recording.stopping(signal.Signals(number).name)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell says to what runs in the background
            signal.signal(number, stop)
    if submission_id():
        threading.Thread(target=_in_time, args=(heard, command), name="raypipe-stop", daemon=True).start()


def _in_time(heard: threading.Event, command: Command) -> None:
    """Waits for the signal, and then for the end of the process; goes before it would be killed."""
    heard.wait()
    time.sleep(max(0.5, _patience_s() - SPARE_S))
    stopped = KeyboardInterrupt()
    if recording := _recording():
        recording.end_all(stopped)
    print("\n" + ending_of(stopped, command).render(), file=sys.stderr, flush=True)
    os._exit(StoppedError.exit_code)


def _patience_s() -> float:
    """Seconds between the signal and the kill, as the supervisor of this job has them."""
    try:
        return float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", ""))
    except ValueError:
        return JOB_WAIT_S


def _recording() -> Any:
    """Nothing is imported here: what is not loaded has nothing to write down."""
    return sys.modules.get("raypipe.store.recording")
