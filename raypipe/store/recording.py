"""What each start of a verb leaves in its run folder: ``logs/0003.json`` says who, when, how far and how it
ended, ``logs/0003.txt`` what was said.

Both are small objects that a thread writes again and again, since S3 cannot append. They prove nothing and
nothing depends on them: a log that cannot be written is said once, and the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from raypipe import __version__
from raypipe.ending import Command, Ending, ending_of, submission_id
from raypipe.errors import RaypipeError
from raypipe.redaction import hide_of_environment, redact
from raypipe.settings import local
from raypipe.store.files import Store
from raypipe.store.process import Process, user
from raypipe.terminal import heard_by

FOLDER = "logs"
BEAT_S = 30.0  # between signs of life
LOOK_S = 0.5  # for a signal, which is written down at once: what stops a job kills it some seconds later
LOCAL_S = 2.0  # between writes of text to a disk; to S3 it goes with the signs of life
LAST_S, LAST_WHEN_STOPPED_S = 10.0, 0.8  # that the end waits for the last write
HEAD_BYTES, TAIL_BYTES = 64 << 10, 192 << 10  # of the text that are kept; between them it is cut
LINE_CHARACTERS = 4000
CLAIMS = 100
_CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "?")  # they move a terminal's cursor
CUT = re.compile(r"^\.\.\. (\d+) lines were left out here \.\.\.$")

_active: list[Recording] = []


class Text:
    """Lines with their times (UTC), of which the first and the last are kept."""

    def __init__(self, head: int = HEAD_BYTES, tail: int = TAIL_BYTES) -> None:
        self._head: list[bytes] = []
        self._tail: deque[bytes] = deque()
        self._room, self._most, self._held = head, tail, 0
        self._cut = 0
        self._lock = threading.Lock()
        self.lines = 0

    def add(self, text: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        with self._lock:
            for line in redact(text).splitlines():
                shown = line.translate(_CONTROLS)[:LINE_CHARACTERS]
                data = f"{now}  {shown}\n".encode(errors="replace")
                self.lines += 1
                if not self._tail and len(data) <= self._room:
                    self._head.append(data)
                    self._room -= len(data)
                    continue
                self._tail.append(data)
                self._held += len(data)
                while self._held > self._most:
                    self._held -= len(self._tail.popleft())
                    self._cut += 1

    def data(self) -> bytes:
        with self._lock:
            cut = f"... {self._cut} lines were left out here ...\n".encode() if self._cut else b""
            return b"".join([*self._head, cut, *self._tail])


class Recording(logging.Handler):
    """One start of a verb; see ``recording``. Hears steps and warnings while it is entered."""

    def __init__(self, root: str, command: Command, facts: dict[str, Any]) -> None:
        super().__init__(logging.WARNING)
        self.root = local(root).rstrip("/")
        self._command, self._pid = command, os.getpid()
        self._text = Text()
        self._record = _first_record(command) | facts
        self._progress: dict[str, Any] = {}
        self._kept = ""  # the progress that the text holds already
        self._stopping: dict[str, Any] | None = None
        self._over, self._done = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._number, self._complained = 0, False
        self._last_line = ""

    def begin(self) -> None:
        """The run folder is ours: from now on it is written to. A second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="raypipe-log", daemon=True)
            self._thread.start()

    def line(self, text: str) -> None:
        self._last_line = text
        self._text.add(text)
        if self._progress and text.startswith(self._progress["step"]):
            self._kept = self._progress_line()  # the end of a step repeats it

    def progress(self, title: str, text: str, counts: dict[str, Any]) -> None:
        self._progress = {"step": title, "said": text, "counts": counts, "at": now()}

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said = record.getMessage()
        except Exception:  # a wrong call of some library's, which must not end the run
            self.handleError(record)
            return
        self._text.add(f"{record.levelname.lower()}: {said}")
        others = logging.getLogger().handlers
        first = others[:1] == [self] and all(isinstance(other, Recording) for other in others)
        if first and logging.lastResort is not None:
            logging.lastResort.handle(record)  # which only a logger without handlers uses by itself

    def stopping(self, signal_name: str) -> None:
        """A signal asks the process to end. Called by the handler of the signal: takes no lock."""
        if self._stopping is None:
            self._stopping = {"signal": signal_name, "at": now()}

    def end(self, fault: BaseException | None) -> None:
        """Writes the end down, and waits for that, but not for long."""
        if os.getpid() != self._pid or self._thread is None or self._over.is_set():
            return
        ending = Ending(0, self._last_line) if fault is None else ending_of(fault, self._command)
        if fault is not None:
            self._text.add(ending.render())
            if ending.unexpected or (isinstance(fault, RaypipeError) and fault.__cause__ is not None):
                self._text.add("".join(traceback.format_exception(fault)))
        self._record |= {
            "ended": now(),
            "exit_code": ending.code,
            "message": redact(ending.message),
            "next": redact(ending.remedy),
        }
        self._over.set()
        if not self._done.wait(LAST_WHEN_STOPPED_S if self._stopping else LAST_S):
            self._complain("it takes too long")

    def _work(self) -> None:
        try:
            self._write_until_the_end(Store(self.root))
        except Exception as fault:  # whatever it is, it must not harm the run
            self._complain(f"{type(fault).__name__}: {fault}")
        finally:
            self._done.set()

    def _write_until_the_end(self, store: Store) -> None:
        every = LOCAL_S if store.is_local else BEAT_S
        lines, first, stopping = -1, True, False
        beat = text = 0.0  # when they were tried last
        while True:
            over = self._over.wait(LOOK_S)
            clock, stopped = time.monotonic(), self._stopping is not None
            at_once = first or over or (stopped and not stopping)
            first, stopping = False, stopped
            if at_once or clock - beat >= BEAT_S:
                self._keep_progress(final=over)
                self._tried(store, self._write_record)
                beat = clock
            said = self._text.lines
            if self._number and said != lines and (at_once or clock - text >= every):
                if self._tried(store, self._write_text):
                    lines = said
                text = clock
            if over:
                return

    def _tried(self, store: Store, write: Any) -> bool:
        try:
            write(store)
        except (RaypipeError, OSError) as fault:
            self._complain(str(fault))
            return False
        return True

    def _write_record(self, store: Store) -> None:
        body = {
            **self._record,
            "alive": now(),
            "progress": {k: redact(v) if isinstance(v, str) else v for k, v in self._progress.items()},
            "stopping": self._stopping,
        }
        if self._number:
            store.replace(_name(self._number, "json"), _dump(body | {"start": self._number}))
            return
        for _ in range(CLAIMS):
            number = 1 + max(numbers(store.list(FOLDER)), default=0)
            if store.put_new(_name(number, "json"), _dump(body | {"start": number}), ours=True):
                self._number = number
                self._record["start"] = number
                return

    def _write_text(self, store: Store) -> None:
        store.replace(_name(self._number, "txt"), self._text.data())

    def _keep_progress(self, final: bool) -> None:
        line = self._progress_line()
        if line and line != self._kept and not final:
            self._kept = line
            self._text.add(line)

    def _progress_line(self) -> str:
        return f"{self._progress['step']}: {self._progress['said']}" if self._progress else ""

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            why = " ".join(redact(why).split())[:300]
            print(f"warning: the log of this start in {self.root}/{FOLDER}: {why}", file=sys.stderr)


@contextlib.contextmanager
def recording(
    root: str, command: Command, *, opened: bool = False, facts: dict[str, Any] | None = None
) -> Iterator[None]:
    """Keeps what is said and how it ends in a run folder, once the folder is this run's (see ``began``).

    A request that is refused before leaves nothing behind.

    Args:
        opened: the folder holds the run already.
        facts: more for the record, such as ``cluster``.
    """
    hide_of_environment()
    recorder = Recording(root, command, facts or {})
    _active.append(recorder)
    logging.getLogger().addHandler(recorder)
    try:
        with heard_by(recorder):
            if opened:
                recorder.begin()
            try:
                yield
            except BaseException as fault:
                recorder.end(fault)
                raise
            recorder.end(None)
    finally:
        logging.getLogger().removeHandler(recorder)
        _active.remove(recorder)


def began(root: str) -> None:
    """A run folder was opened for work by this process: its recording, if there is one, begins to write."""
    for recorder in tuple(_active):
        if recorder.root == root:
            recorder.begin()


def stopping(signal_name: str) -> None:
    """Tells all recordings of a signal; for its handler."""
    for recorder in tuple(_active):
        recorder.stopping(signal_name)


def end_all(fault: BaseException) -> None:
    """Writes the end of all recordings down, where the process is about to go without coming to it."""
    for recorder in tuple(_active):
        recorder.end(fault)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def numbers(names: list[str]) -> list[int]:
    """The numbers of the starts among the names of the folder."""
    stems = [n.removeprefix(f"{FOLDER}/").removesuffix(".json") for n in names if n.endswith(".json")]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _name(number: int, kind: str) -> str:
    return f"{FOLDER}/{number:04d}.{kind}"


def _first_record(command: Command) -> dict[str, Any]:
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = ""
    return {
        "nonce": uuid.uuid4().hex,
        "verb": command.verb,
        "command": redact(command.line),
        "again": [redact(line) for line in command.again()],
        "process": asdict(Process.this()),
        "user": user(),
        "folder": os.getcwd(),
        "software": {"raypipe": __version__, "ray": ray, "python": platform.python_version()},
        "submission_id": submission_id(),
        "begun": now(),
        "beat_s": BEAT_S,
    }


def _dump(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n").encode()
