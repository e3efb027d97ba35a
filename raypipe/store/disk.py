"""The store on local disk: a synced temporary file beside its final place, then one link or rename."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from raypipe.errors import ServiceError
from raypipe.store.process import Process, start_of

COPY_BYTES = 1 << 20
FOREIGN_AGE_S = 24 * 3600.0  # a temporary file of another host, or of an unknown writer, is left this long

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
_REMEDIES = {
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "the disk reports errors: check it, or name another out=",
}


class Disk:
    """Files by their full paths. ServiceError for what the system refuses."""

    def put_new(self, path: str, data: bytes, ours: bool) -> bool:
        with _refusals("write", path), _written(path, [data]) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return ours and self.read(path) == data
            _sync_folder(path)
        return True

    def replace(self, path: str, data: bytes) -> None:
        with _refusals("write", path), _written(path, [data]) as temporary:
            os.replace(temporary, path)
            _sync_folder(path)

    def replace_from(self, path: str, source: Path) -> None:
        with open(source, "rb") as file, _refusals("write", path):
            with _written(path, _chunks(file)) as temporary:
                os.replace(temporary, path)
            _sync_folder(path)

    def fetch(self, path: str, target: Path, parts: Iterable[bytes]) -> None:
        write_parts(target, parts)

    def read(self, path: str) -> bytes:
        with _refusals("read", path, missing=True):
            return Path(path).read_bytes()

    def range(self, path: str, offset: int, length: int) -> bytes:
        with _refusals("read", path, missing=True):
            file = os.open(path, os.O_RDONLY)
            try:
                found = []
                while length > 0 and (part := os.pread(file, length, offset)):
                    found.append(part)
                    offset, length = offset + len(part), length - len(part)
            finally:
                os.close(file)
        return b"".join(found)

    def size(self, path: str) -> int | None:
        """Bytes; None where there is no such file."""
        found = self.state(path)
        return found[0] if found else None

    def state(self, path: str) -> tuple[int, str] | None:
        """Bytes and time of change; None where there is no such file."""
        try:
            with _refusals("read", path, missing=True):
                found = os.stat(path)
        except FileNotFoundError:
            return None
        return (found.st_size, str(found.st_mtime_ns)) if stat.S_ISREG(found.st_mode) else None

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(path)

    def states(self, root: str, top: str) -> Iterator[tuple[str, int, str]]:
        """Name, bytes and time of change of the files below ``top``."""
        for name in self.names(root, top):
            found = self.state(f"{root}/{name}")
            if found is not None:
                yield name, *found

    def names(self, root: str, top: str) -> Iterator[str]:
        """The files below ``top``, relative to ``root``."""

        def refused(fault: OSError) -> None:
            if fault.errno not in _NOT_THERE:
                raise fault

        with _refusals("list", top):
            for folder, _, files in os.walk(top, onerror=refused):
                inside = Path(folder).relative_to(root).as_posix()
                yield from files if inside == "." else (f"{inside}/{file}" for file in files)

    def delete(self, path: str) -> None:
        """Removes a file; it stays away even if the machine loses power right after."""
        self._unlink(path)
        with _refusals("remove", path):
            _sync_folder(path)

    def delete_many(self, paths: Iterable[str]) -> None:
        folders = {}
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._unlink(path)
                folders[os.path.dirname(path)] = path
        for path in folders.values():
            with _refusals("remove", path):
                _sync_folder(path)

    def _unlink(self, path: str) -> None:
        with _refusals("remove", path, missing=True):
            os.unlink(path)

    def sweep(self, root: str) -> int:
        """Removes temporary files that no living process of this host is writing; returns how many."""
        count = 0
        for name in list(self.names(root, root)):
            path = f"{root}/{name}"
            if _is_temporary(path) and not _being_written(path):
                with contextlib.suppress(FileNotFoundError):
                    self._unlink(path)
                    count += 1
        return count


def write_parts(target: Path, parts: Iterable[bytes]) -> None:
    """Writes a local file that is in no store, straight to its place; faults of ``parts`` are let through."""
    with _refusals("write", str(target)):
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for part in parts:
            with _refusals("write", str(target)):
                _write_all(file, part)
    finally:
        os.close(file)


@contextlib.contextmanager
def _refusals(action: str, path: str, missing: bool = False) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        if missing and fault.errno in _NOT_THERE:
            raise FileNotFoundError(errno.ENOENT, "no such file in the store", path) from fault
        remedy = _REMEDIES.get(fault.errno or 0, "free space there or name another out=")
        raise ServiceError(f"cannot {action} {path}: {fault.strerror or fault}", remedy) from fault


def temporary_name(path: str) -> str:
    """A name beside a path that no store shows, and that is swept away once its writer is dead."""
    folder, name = os.path.split(path)
    return f"{folder}/.{name}.{_here()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"


@contextlib.contextmanager
def _written(path: str, data: Iterable[bytes]) -> Iterator[str]:
    """A synced temporary file beside its final place; gone at the end whatever happens."""
    folder = os.path.dirname(path)
    temporary = temporary_name(path)
    try:
        os.makedirs(folder, exist_ok=True)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            for part in data:
                _write_all(file, part)
            os.fsync(file)
        finally:
            os.close(file)
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(COPY_BYTES):
        yield part


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _here() -> str:
    """This host and boot in eight letters: a process id means something only together with it."""
    this = Process.this()
    return f"{zlib.crc32(f'{this.host}/{this.here}'.encode()):08x}"


def _is_temporary(path: str) -> bool:
    name = os.path.basename(path)
    return name.startswith(".") and name.endswith(".tmp")


def _being_written(path: str) -> bool:
    here, _, rest = path.rsplit(".", 2)[-2].partition("-")
    pid = rest.partition("-")[0]
    if here == _here() and pid.isdigit():
        return start_of(int(pid)) is not None
    try:
        return time.time() - os.stat(path).st_mtime < FOREIGN_AGE_S
    except OSError:
        return True
