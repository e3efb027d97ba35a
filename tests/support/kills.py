"""Ends a driver in the middle of its work: before an operation on files, or around a request to S3."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from raypipe.errors import ServiceError
from raypipe.store.objects import Objects
from raypipe.store.process import Process

ALL = os.environ.get("RAYPIPE_ALL_FAULTS") == "1"  # every point instead of a seeded choice
SEED = int(os.environ.get("RAYPIPE_FAULT_SEED", "20260101"))
# What changes files.
OPERATIONS = ("mkdir", "open", "write", "fsync", "fdatasync", "link", "replace", "unlink")
REFUSED = 5


def points(total: int, chosen: int, always: set[int] = frozenset()) -> list[int]:  # type: ignore[assignment]
    """Which of the operations 1..total are tried: all, or some by the seed, first and last always."""
    if ALL or total <= chosen:
        return list(range(1, total + 1))
    some = random.Random(SEED).sample(range(1, total + 1), chosen)
    picked = sorted({1, total, *always, *some})
    print(f"fault points (RAYPIPE_FAULT_SEED={SEED}, RAYPIPE_ALL_FAULTS=1 for all {total}): {picked}")
    return picked


def few(of: set[int], chosen: int) -> set[int]:
    """All of them, or some by the seed: of what is to be tried in any case where there are many."""
    if ALL or len(of) <= chosen:
        return of
    return set(random.Random(SEED).sample(sorted(of), chosen))


class _Disk:
    """Counts the operations that change files, does harm to the n-th, and knows what is not durable yet."""

    def __init__(self, at: int, harm: str, log: int) -> None:
        self.at, self.harm, self.seen, self.log = at, harm, 0, log
        self.real = {name: getattr(os, name) for name in OPERATIONS}
        self.paths: dict[int, str] = {}  # of open files
        self.dirty: dict[int, list[str]] = {}  # inode -> its names, while what was written is not synced
        self.undo: list[tuple[str, Callable[[], object]]] = []  # folder, and how its last change is lost
        # One operation at a time: two threads that count together would both pass by the one that is meant.
        self.turn = threading.RLock()
        for name in OPERATIONS:
            setattr(os, name, self._in_turn(getattr(self, f"_{name}")))

    def _in_turn(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*values: Any, **named: Any) -> Any:
            with self.turn:
                return act(*values, **named)

        return acted

    def step(self, name: str, path: str, half: Callable[[], object] | None = None) -> None:
        self.seen += 1
        self.real["write"](self.log, f"{name} {os.path.basename(path)}\n".encode())
        if self.seen != self.at:
            return
        if self.harm.startswith("E"):
            code = getattr(errno, self.harm)
            raise OSError(code, os.strerror(code))
        if half:
            half()
        if self.harm == "power":
            self._lose()
        os.kill(os.getpid(), signal.SIGKILL)

    def _lose(self) -> None:
        """A power cut: bytes that were not synced are gone, and so may be any unsynced change of a folder."""
        dice = random.Random(f"{SEED}-{self.at}")
        for names in self.dirty.values():
            for name in names:
                with contextlib.suppress(OSError):
                    os.truncate(name, 0)
        for _, undo in reversed(self.undo):
            if dice.random() < 0.7:
                with contextlib.suppress(OSError):
                    undo()

    def _mkdir(self, path, *more, **named):
        self.step("mkdir", str(path))
        return self.real["mkdir"](path, *more, **named)

    def _open(self, path, flags, *more, **named):
        if flags & os.O_CREAT:
            self.step("open", str(path))
        file = self.real["open"](path, flags, *more, **named)
        self.paths[file] = str(path)
        if flags & os.O_CREAT:
            self.dirty[os.fstat(file).st_ino] = [str(path)]
        return file

    def _write(self, file, data):
        if file not in self.paths:
            return self.real["write"](file, data)
        path = self.paths[file]
        self.step("write", path, lambda: self.real["write"](file, data[: len(data) // 2]))
        return self.real["write"](file, data)

    def _fsync(self, file):
        # Nothing is really synced: a thousand kills would wait for the disk, and see the page cache anyway.
        path = self.paths.get(file, "")
        self.step("fsync", path)
        self.dirty.pop(os.fstat(file).st_ino, None)
        self.undo = [(folder, undo) for folder, undo in self.undo if folder != path]

    def _fdatasync(self, file):
        self.step("fdatasync", self.paths.get(file, ""))
        self.dirty.pop(os.fstat(file).st_ino, None)

    def _link(self, source, target):
        self.step("link", str(target))
        self.real["link"](source, target)
        self.undo.append((os.path.dirname(target), lambda: self.real["unlink"](target)))
        self.dirty.get(os.stat(target).st_ino, []).append(str(target))

    def _replace(self, source, target):
        self.step("replace", str(target))
        old = Path(target).read_bytes() if os.path.exists(target) else None
        self.real["replace"](source, target)
        self.undo.append((os.path.dirname(target), lambda: _put_back(target, old)))
        self.dirty.get(os.stat(target).st_ino, []).append(str(target))

    def _unlink(self, path, *more, **named):
        self.step("unlink", str(path))
        old = None if str(path).endswith(".tmp") else Path(path).read_bytes()
        self.real["unlink"](path, *more, **named)
        if old is not None:
            self.undo.append((os.path.dirname(path), lambda: _put_back(str(path), old)))


def _put_back(path: str, data: bytes | None) -> None:
    if data is None:
        Path(path).unlink()
    else:
        Path(path).write_bytes(data)


def forked(act: Callable[[], object], at: int = 0, harm: str = "kill") -> tuple[int, list[str]]:
    """Runs ``act`` in a forked child that comes to harm at its operation number ``at`` (0: never).

    Args:
        harm: "kill": SIGKILL before the operation (of a write, in its middle); "power": the same, and
            what was not synced is lost; or the name of an error that the operation ends with.

    Returns:
        the exit code (negative: the signal; 5: a ServiceError), and the operations that were begun.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _Disk(at, harm, writer)
            act()
            code = 0
        except ServiceError:
            code = REFUSED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as log:
        lines = log.read().decode().splitlines()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lines


class Death(BaseException):
    """The end of a driver that speaks to S3 from this process."""


class _Gone(Exception):
    """What the client's own code sees of it."""


class Requests:
    """Counts the requests to S3; from the n-th on, none is answered or sent any more."""

    def __init__(self, at: int = 0, how: str = "before") -> None:
        self.at, self.how = at, how
        self.log: list[str] = []
        self.dead = False
        self.lock = threading.Lock()

    def due(self, method: str, key: str) -> bool:
        """Whether this request is the last one; never returns once the driver is dead."""
        with self.lock:
            if self.dead:
                raise _Gone
            self.log.append(f"{method} {key}")
            return len(self.log) == self.at


@contextlib.contextmanager
def dying(at: int = 0, how: str = "before") -> Iterator[Requests]:
    """Ends the driver inside at its request number ``at`` (0: never) with ``Death``.

    A process that is gone sends nothing more. Neither does the one inside: after its end every request
    of it fails, also those of its exception handlers, context managers and threads. It is known to the
    lease as a process of this host whose id belongs to another one by now, as that of a dead one may.

    Args:
        how: "before" the request is sent, or "after" it was carried out and before its reply is seen.
    """
    import s3fs.core

    requests = Requests(at, how)
    send, tried = s3fs.core._error_wrapper, Objects._tried

    async def watched(func: Any, *, args: Any = (), kwargs: Any = None, retries: int) -> Any:
        method = getattr(func, "__name__", "?")
        if method == "_call_and_read":  # of s3fs itself, around a request that comes here as well
            return await send(func, args=args, kwargs=kwargs, retries=retries)
        due = requests.due(method, str((kwargs or {}).get("Key", "")))
        if due and how == "before":
            requests.dead = True
            raise _Gone
        try:
            return await send(func, args=args, kwargs=kwargs, retries=retries)
        finally:
            if due:
                requests.dead = True
                raise _Gone

    def ended(self: Objects, action: str, path: str, act: Any) -> Any:
        if requests.dead:
            raise Death
        try:
            return tried(self, action, path, act)
        except Exception:
            if requests.dead:
                raise Death from None
            raise

    this = Process.this()
    gone = Process(this.host, this.here, this.pid, "1")
    with (
        mock.patch.object(s3fs.core, "_error_wrapper", watched),
        mock.patch.object(Objects, "_tried", ended),
        mock.patch.object(Process, "this", classmethod(lambda _: gone)),
    ):
        yield requests
