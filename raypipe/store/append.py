"""A local file that is appended to by one process: lines that survive a kill once they are written, and a
loss of power once they are synced. S3 has no such thing."""

from __future__ import annotations

import errno
import fcntl
import os
import threading

from raypipe.errors import ServiceError


class AppendFile:
    """Lines at the end of a file that this process alone holds.

    Args:
        path: of a file that need not be there; its folder is made.

    Raises:
        ServiceError: from every method: the disk refused, or another process holds the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            _sync_folder(os.path.dirname(path))
        except OSError as fault:
            raise self._refused(fault) from fault
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            os.close(self._file)
            raise ServiceError(f"another process is writing {path}", "let it end first") from fault

    def write(self, lines: bytes) -> None:
        """Appends whole lines, all of them or, where the disk is full, none."""
        with self._lock:
            try:
                end = os.fstat(self._file).st_size
                try:
                    if os.write(self._file, lines) != len(lines):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    os.ftruncate(self._file, end)
                    raise
            except OSError as fault:
                raise self._refused(fault) from fault

    def sync(self) -> None:
        """Returns when what was written is on the disk."""
        try:
            os.fdatasync(self._file)
        except OSError as fault:
            raise self._refused(fault) from fault

    def read(self) -> bytes:
        """All lines that are whole."""
        try:
            data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        except OSError as fault:
            raise self._refused(fault) from fault
        return data[: data.rfind(b"\n") + 1]

    def remove(self) -> None:
        """Removes the file while it is held, and lets go of it."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as fault:
            raise self._refused(fault) from fault
        self.close()

    def close(self) -> None:
        """Lets go of the file; fine when it was done before."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _refused(self, fault: OSError) -> ServiceError:
        return ServiceError(f"cannot write {self.path}: {fault.strerror or fault}", "free space there")


def _sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
