"""A folder of this machine for copies of what lies on object storage, and locks that its processes share."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from raypipe.errors import RequestError, ServiceError
from raypipe.settings import expanded

FOLDER, GIB = "RAYPIPE_CACHE", "RAYPIPE_CACHE_GIB"
DEFAULT_FOLDER, DEFAULT_GIB = "~/.cache/raypipe", 200.0


def node_folder(kind: str) -> Path:
    """The folder of one kind of copies: below ``$RAYPIPE_CACHE``, or ``~/.cache/raypipe``.

    Raises:
        RequestError: ``~`` of nobody.
        ServiceError: it cannot be made.
    """
    folder = expanded(os.environ.get(FOLDER) or DEFAULT_FOLDER) / kind
    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def node_limit() -> int:
    """Bytes of models that this machine may keep: ``$RAYPIPE_CACHE_GIB``, or 200 GiB.

    Raises:
        RequestError: the variable is not a number above 0.
    """
    text = os.environ.get(GIB) or str(DEFAULT_GIB)
    try:
        gib = float(text)
    except ValueError:
        gib = 0.0
    if not 0 < gib < 1e9:
        raise RequestError(f"{GIB}={text} is not a number of GiB", f"export {GIB}=200")
    return int(gib * (1 << 30))


@contextlib.contextmanager
def locked(file: Path) -> Iterator[int]:
    """Waits until no other process holds this lock; the system frees it when its holder dies."""
    with refusals(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def refusals(place: Path) -> Iterator[None]:
    """What this machine's disk refuses, as an error with a remedy."""
    try:
        yield
    except OSError as fault:
        said = f"cannot write {place}: {fault.strerror or fault}"
        raise ServiceError(said, f"free space there, or name another folder in {FOLDER}") from fault
