"""The verdicts of a run on disk: durable one by one, kept in few files.

The ledger is the folder ``verdicts``: immutable Arrow segments. On a local disk a verdict is first a synced
line of ``open-*.jsonl``, which one process writes; full ones are sealed into a segment, and so are those
that a killed process left. S3 cannot append: there, what came in a second is put as a small segment
``part-*``, and those are put together at the end. A crash loses nothing on disk and at most the last
second on S3.

``spent/*.json`` says what each start of the run has paid, at most: it counts calls under way at the most
they can cost, so that a killed start is never counted too low. On S3 it is written in steps of ``step_usd``
ahead of what is spent, for each call would be one request too many.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple
from pathlib import PurePosixPath
from typing import Any

from raypipe.errors import DamageError, ServiceError
from raypipe.records import VERDICT_SCHEMA, Outcome, Verdict, fingerprint, verdicts_of
from raypipe.store.append import AppendFile
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger

VERDICTS = "verdicts"  # the ledger's folder
SPENT = f"{VERDICTS}/spent"
SEAL_ROWS = 4096
FLUSH_S = 1.0
FEW_PARTS = 8  # that are left as they are


class VerdictLog:
    """The ledger of a run, open for writing. Takes over what a killed process left.

    Args:
        step_usd: how much more than it spent a killed start may count for, on S3; 0: what a start on S3
            spent in its last second need not count.

    Raises:
        ServiceError: from every method: the disk or the service refused.
    """

    def __init__(self, store: Store, step_usd: float = 0.0) -> None:
        self.step_usd = step_usd
        self.ledger = Ledger(store, VERDICTS, VERDICT_SCHEMA)
        self._store, self._name = store, uuid.uuid4().hex[:12]
        self._at_most_usd = self._said_usd = 0.0
        self.held = recover(store)  # verdicts in files of other processes, which seal them themselves
        self._writer: _Lines | _Parts = _Lines(self) if store.is_local else _Parts(self)

    def spent_usd(self) -> float:
        """What earlier starts of the run have paid, at most."""
        return sum(_spent(self._store.read(name)) for name in self._store.list(SPENT, ".json"))

    def append(self, rows: Sequence[Verdict]) -> None:
        """Adds verdicts. On disk they are durable when this returns, on S3 within ``FLUSH_S``."""
        self._writer.append(rows)

    def reserve(self, usd: float) -> None:
        """Notes, before a call is sent, what this start will have paid at most."""
        if usd != self._at_most_usd:
            self._at_most_usd = usd
            self._writer.reserve(usd)

    def close(self) -> None:
        """Seals what is open; nothing is added afterwards."""
        self._writer.close()
        join_parts(self._store)

    def put(self, rows: Sequence[Verdict], prefix: str = "") -> None:
        if rows:
            self.ledger.append(prefix + segment_name(rows), rows)

    def say_spent(self, ahead_usd: float = 0.0) -> None:
        usd = self._at_most_usd + ahead_usd
        if usd != self._said_usd:
            self._store.replace(f"{SPENT}/{self._name}.json", _dump({"usd": usd}))
            self._said_usd = usd

    @property
    def said_usd(self) -> float:
        """What the store says of this start."""
        return self._said_usd

    @property
    def name(self) -> str:
        return self._name

    @property
    def store(self) -> Store:
        return self._store


class _Lines:
    """On local disk."""

    def __init__(self, log: VerdictLog) -> None:
        self._log, self._lock = log, threading.Lock()
        self._file: AppendFile | None = None
        self._rows: list[Verdict] = []

    def append(self, rows: Sequence[Verdict]) -> None:
        with self._lock:
            file = self._open()
            file.write(b"".join(_dump(asdict(row)) for row in rows))
            self._rows += rows
            full = len(self._rows) >= SEAL_ROWS
            if full:
                self._seal()
        if not full:
            file.sync()

    def reserve(self, usd: float) -> None:
        with self._lock:
            self._open().write(_dump({"at_most_usd": usd}))

    def close(self) -> None:
        with self._lock:
            self._seal()

    def _open(self) -> AppendFile:
        if self._file is None:
            self._file = AppendFile(self._log.store.path(f"{VERDICTS}/open-{self._log.name}.jsonl"))
        return self._file

    def _seal(self) -> None:
        if self._file is not None:
            self._log.put(self._rows)
            self._log.say_spent()
            self._file.remove()
            self._file, self._rows = None, []


class _Parts:
    """On S3: a thread puts what came in."""

    def __init__(self, log: VerdictLog) -> None:
        self._log, self._lock = log, threading.Lock()
        self._rows: list[Verdict] = []
        self._fault: ServiceError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._flushing, name="verdicts", daemon=True)
        self._thread.start()

    def append(self, rows: Sequence[Verdict]) -> None:
        if self._fault:
            raise self._fault
        with self._lock:
            self._rows += rows

    def reserve(self, usd: float) -> None:
        if self._fault:
            raise self._fault
        if self._log.step_usd and usd > self._log.said_usd:
            self._log.say_spent(self._log.step_usd)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._flush()
        self._log.say_spent()

    def _flushing(self) -> None:
        while not self._over.wait(FLUSH_S):
            try:
                self._flush()
                self._fault = None
            except ServiceError as fault:  # said at the next verdict; what is kept is put at the next flush
                self._fault = fault

    def _flush(self) -> None:
        with self._lock:
            rows, self._rows = self._rows, []
        try:
            self._log.put(rows, "part-")
        except BaseException:
            with self._lock:
                self._rows = rows + self._rows
            raise
        if not self._log.step_usd:
            self._log.say_spent()


def recover(store: Store) -> list[Verdict]:
    """Seals what killed processes left open; what a living one writes is left alone, and returned.

    A process counts as living as long as a child that it forked is: such a child holds the file, too.
    """
    held: list[Verdict] = []
    for name in store.list(VERDICTS, ".jsonl") if store.is_local else []:
        try:
            file = AppendFile(store.path(name))
        except ServiceError:
            with contextlib.suppress(FileNotFoundError):  # sealed meanwhile
                data = store.read(name)
                held += _verdicts_in(_parsed(data[: data.rfind(b"\n") + 1], name))
            continue
        try:
            _seal_left(store, PurePosixPath(name).stem.removeprefix("open-"), file)
        finally:
            file.close()
    join_parts(store)
    return held


def _seal_left(store: Store, start: str, file: AppendFile) -> None:
    lines = _parsed(file.read(), file.path)
    rows = _verdicts_in(lines)
    if rows:
        Ledger(store, VERDICTS, VERDICT_SCHEMA).append(segment_name(rows), rows)
    usd = [line["at_most_usd"] for line in lines if "at_most_usd" in line]
    if usd:
        store.replace(f"{SPENT}/{start}.json", _dump({"usd": usd[-1]}))
    file.remove()


def join_parts(store: Store) -> None:
    """Puts small segments together; of rows that are there twice for a moment readers take one."""
    ledger = Ledger(store, VERDICTS, VERDICT_SCHEMA)
    parts = sorted(name for name in ledger.names() if name.startswith("part-"))
    if len(parts) <= FEW_PARTS:
        return
    rows: list[Verdict] = []
    done: list[str] = []
    for name in parts:
        with contextlib.suppress(FileNotFoundError):
            rows += verdicts_of(ledger.segment(name))
            done.append(f"{VERDICTS}/{name}.arrow")
        if len(rows) >= SEAL_ROWS or name == parts[-1]:
            if rows:
                ledger.append(segment_name(rows), rows)
            store.delete_many(done)
            rows, done = [], []


def segment_name(rows: Iterable[Verdict]) -> str:
    return fingerprint(*sorted(repr(astuple(row)) for row in rows))


def _verdicts_in(lines: Iterable[dict[str, Any]]) -> list[Verdict]:
    return verdicts_of([{**line, "outcome": Outcome(line["outcome"])} for line in lines if "key" in line])


def _parsed(data: bytes, where: str) -> list[dict[str, Any]]:
    """The lines of an open file; the last one may be torn, when the machine lost power."""
    lines = [line for line in data.split(b"\n") if line]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                remedy = "move that file away: the same command then asks again what it held"
                raise DamageError(f"{where}, line {number} is damaged", remedy) from None
    return found


def _spent(data: bytes) -> float:
    return float(json.loads(data)["usd"])


def _dump(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, ensure_ascii=False) + "\n").encode()
