"""Where the things of a run are: bytes under relative names, on local disk or any fsspec address.

Every write is whole or not there. ``put_new`` is the only commit point of raypipe: it creates a
name that did not exist, so of two writers exactly one wins.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec

from raypipe.errors import ServiceError
from raypipe.settings import local

# A full or read-only disk, no permission, or a file where the store needs a folder (or the other way round).
_REFUSED = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
)


class Store:
    """Files below one root.

    Args:
        root: a local folder (``~`` allowed) or an fsspec address such as ``s3://bucket/prefix``.
    """

    def __init__(self, root: str) -> None:
        self.root = local(str(root)).rstrip("/")
        self.is_local = "://" not in self.root
        self._fs: Any = None if self.is_local else fsspec.core.url_to_fs(self.root)[0]

    def __reduce__(self):
        return (Store, (self.root,))

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def path(self, name: str) -> str:
        """The full path or address of a name."""
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"not a name inside the store: {name!r}")
        return f"{self.root}/{name}"

    def put_new(self, name: str, data: bytes) -> bool:
        """Creates a file whole; False, and nothing written, when the name exists already."""
        if not self.is_local:
            return self._put_remote(name, data)
        with self._written(name, data) as temporary:
            try:
                os.link(temporary, self.path(name))
            except FileExistsError:
                return False
        _sync_folder(Path(self.path(name)).parent)
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Writes a file whole, over an old one if there is one."""
        if not self.is_local:
            self._fs.pipe_file(self.path(name), data)
            return
        with self._written(name, data) as temporary:
            os.replace(temporary, self.path(name))
        _sync_folder(Path(self.path(name)).parent)

    def replace_from(self, name: str, source: Path) -> None:
        """Writes a file whole from another one, without holding it in memory."""
        if not self.is_local:
            self._fs.put_file(str(source), self.path(name))
            return
        with open(source, "rb") as data, self._written(name, data) as temporary:
            os.replace(temporary, self.path(name))
        _sync_folder(Path(self.path(name)).parent)

    def fetch(self, name: str, target: Path) -> None:
        """Copies a file out of the store, without holding it in memory."""
        if self.is_local:
            shutil.copyfile(self.path(name), target)
        else:
            self._fs.get_file(self.path(name), str(target))

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: no such name.
        """
        if self.is_local:
            return Path(self.path(name)).read_bytes()
        return self._fs.cat_file(self.path(name))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """``length`` bytes of a file from ``offset`` on, in one read; fewer where the file ends before.

        Raises:
            FileNotFoundError: no such name.
        """
        if self.is_local:
            with open(self.path(name), "rb") as file:
                return os.pread(file.fileno(), length, offset)
        return self._fs.cat_file(self.path(name), start=offset, end=offset + length)

    def sha256(self, name: str) -> str:
        """The hash of a file, without holding it in memory."""
        with self._fs.open(self.path(name), "rb") if self._fs else open(self.path(name), "rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()

    def exists(self, name: str) -> bool:
        if self.is_local:
            return os.path.isfile(self.path(name))
        self._fs.invalidate_cache()
        return bool(self._fs.isfile(self.path(name)))

    def size(self, name: str) -> int:
        return os.path.getsize(self.path(name)) if self.is_local else int(self._fs.size(self.path(name)))

    def list(self, folder: str = "", suffix: str = "") -> list[str]:
        """The names below a folder (recursively), sorted; temporary files are not shown."""
        top = self.path(folder) if folder else self.root
        if self.is_local:
            found = (p for p in Path(top).rglob("*") if p.is_file())
            names = [p.relative_to(self.root).as_posix() for p in found]
        else:
            self._fs.invalidate_cache()
            base = self._fs._strip_protocol(self.root).rstrip("/") + "/"
            names = [p.removeprefix(base) for p in self._fs.find(top)]
        shown = (n for n in names if n.endswith(suffix) and not PurePosixPath(n).name.startswith("."))
        return sorted(shown)

    def delete(self, name: str) -> None:
        """Removes a file; a name that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            if self.is_local:
                os.unlink(self.path(name))
            else:
                self._fs.rm_file(self.path(name))

    @contextlib.contextmanager
    def _written(self, name: str, data: bytes | BinaryIO):
        """A synced temporary file beside its final place; gone at the end whatever happens."""
        target = Path(self.path(name))
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        except OSError as fault:
            if fault.errno in _REFUSED:
                raise ServiceError(
                    f"cannot write {target}: {fault.strerror}", "free space there or name another out="
                ) from fault
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _put_remote(self, name: str, data: bytes) -> bool:
        # s3fs turns mode="create" into If-None-Match, the one conditional write S3 has.
        try:
            self._fs.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
