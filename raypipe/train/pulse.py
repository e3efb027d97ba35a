"""A rank's sign of life: a thread that posts where the loop is, and ends the process when told to."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from raypipe.train.board import LEAVE
from raypipe.train.status import Status

LEFT = 75  # exit status of a worker that was told to leave
log = logging.getLogger(__name__)


def end_process() -> None:
    """Ends this process at once: its training thread may sit in a collective that nobody can interrupt."""
    logging.shutdown()
    os._exit(LEFT)


class Pulse:
    """Posts a Status every ``every_s``, with stacks once it has stood still for ``stacks_s``.

    Args:
        post: takes the report, returns the board's order. What it raises is logged, never fatal.
        leave: called once when the board says so.
    """

    def __init__(
        self,
        status: Status,
        post: Callable[[dict[str, Any]], str],
        every_s: float,
        stacks_s: float,
        leave: Callable[[], None] = end_process,
    ) -> None:
        self._status, self._post, self._leave = status, post, leave
        self._every, self._stacks = every_s, stacks_s
        self._over = threading.Event()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._watched = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(2.0)
        with contextlib.suppress(Exception):
            self._post({**self._status.view(), "phase": "done"})

    def _beat(self) -> None:
        while not self._over.wait(self._every):
            report = self._status.view()
            if report["still_s"] >= self._stacks:
                report["stacks"] = stacks(self._watched)
            try:
                order = self._post(report)
            except Exception as fault:  # the board may be slow or gone; Ray ends us in the latter case
                log.debug("no answer from the board: %s", fault)
                continue
            if order == LEAVE and not self._over.is_set():
                self._leave()
                return


def stacks(watched: int) -> dict[str, list[str]]:
    """The Python stacks of the watched thread ("training") and of raypipe's others, outermost call first."""
    names = {t.ident: t.name for t in threading.enumerate()}
    found: dict[str, list[str]] = {}
    for ident, frame in sys._current_frames().items():
        lines = _lines(frame)
        if ident == watched:
            found["training"] = lines
        elif ident != threading.get_ident() and any("raypipe/" in line for line in lines):
            found[names.get(ident, str(ident))] = lines
    return found


def _lines(frame: FrameType) -> list[str]:
    return [
        f"{f.filename.rpartition('/site-packages/')[2]}:{f.lineno} in {f.name}: {f.line or ''}".rstrip(": ")
        for f in traceback.extract_stack(frame)
    ]
