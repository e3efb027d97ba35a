"""Where the things of a run are: bytes under relative names, on local disk or any fsspec address.

Every write is whole or not there. ``put_new`` is the only commit point of raypipe: it creates a
name that did not exist, so of two writers exactly one wins. What the disk or the service refuses
ends in a ServiceError; a name that is not there in a FileNotFoundError, and in nothing else.
"""

from __future__ import annotations

import builtins
import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from raypipe.settings import local
from raypipe.store.disk import Disk

PART_BYTES = 16 << 20  # what is read at a time of a file that is not held in memory


class FileState(NamedTuple):
    """A file as its storage describes it: bytes, and ETag or time of change (nanoseconds)."""

    size: int
    stamp: str


class Store:
    """Files below one root.

    Args:
        root: a local folder (``~`` allowed) or an fsspec address such as ``s3://bucket/prefix``.

    Raises:
        ServiceError: from every method: the disk or the service refused, or did not answer after
            several tries.
    """

    def __init__(self, root: str) -> None:
        self.root = local(str(root)).rstrip("/")
        self.is_local = "://" not in self.root
        self._files: Any
        if self.is_local:
            self._files = Disk()
        else:
            from raypipe.store.objects import Objects

            self._files = Objects(self.root)

    def __reduce__(self):
        return (Store, (self.root,))

    def __repr__(self) -> str:
        return f"Store({self.root!r})"

    def path(self, name: str) -> str:
        """The full path or address of a name."""
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"not a name inside the store: {name!r}")
        return f"{self.root}/{name}"

    def put_new(self, name: str, data: bytes, *, ours: bool = False) -> bool:
        """Creates a file whole; False, and nothing written, when the name exists already.

        Args:
            ours: nobody else ever puts these bytes (they hold a nonce). A file that is there with
                exactly these bytes is then our own, written by a try whose reply was lost: True.
                Without it such a file counts as somebody's, which is right for names made from content.
        """
        return bool(self._files.put_new(self.path(name), data, ours))

    def replace(self, name: str, data: bytes) -> None:
        """Writes a file whole, over an old one if there is one."""
        self._files.replace(self.path(name), data)

    def replace_from(self, name: str, source: Path) -> None:
        """Writes a file whole from another one, without holding it in memory."""
        self._files.replace_from(self.path(name), source)

    def fetch(self, name: str, target: Path) -> None:
        """Copies a file out of the store, without holding it in memory.

        Raises:
            FileNotFoundError: no such name.
        """
        self._files.fetch(self.path(name), target, self._parts(name))

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: no such name.
        """
        return self._files.read(self.path(name))

    def range(self, name: str, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset`` on, in one read; fewer at the end of the file.

        Raises:
            FileNotFoundError: no such name.
        """
        if offset < 0 or length < 0:
            raise ValueError(f"not a range: {offset}, {length}")
        return self._files.range(self.path(name), offset, length)

    def sha256(self, name: str) -> str:
        """The hash of a file, without holding it in memory."""
        return self.measure(name)[1]

    def measure(self, name: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 of a file, read once and without holding it in memory.

        Raises:
            FileNotFoundError: no such name.
        """
        digest, size = hashlib.sha256(), 0
        for part in self._parts(name):
            digest.update(part)
            size += len(part)
        return size, digest.hexdigest()

    def exists(self, name: str) -> bool:
        return self._files.size(self.path(name)) is not None

    def size(self, name: str) -> int:
        """Bytes.

        Raises:
            FileNotFoundError: no such name.
        """
        size = self._files.size(self.path(name))
        if size is None:
            raise FileNotFoundError(self.path(name))
        return int(size)

    def list(self, folder: str = "", suffix: str = "") -> builtins.list[str]:
        """The names below a folder (recursively), sorted; temporary files are not shown."""
        names = self._files.names(self.root, self.path(folder) if folder else self.root)
        shown = (n for n in names if n.endswith(suffix) and not PurePosixPath(n).name.startswith("."))
        return sorted(shown)

    def state(self, name: str) -> FileState | None:
        """Size and stamp of a file, nothing of it read; None where there is none."""
        found = self._files.state(self.path(name))
        return None if found is None else FileState(*found)

    def states(self, folder: str = "") -> dict[str, FileState]:
        """The files below a folder (recursively) with their states, by name; no file is read."""
        found = self._files.states(self.root, self.path(folder) if folder else self.root)
        return {name: FileState(size, stamp) for name, size, stamp in sorted(found)}

    def is_there(self) -> bool:
        """Whether the root is a folder, or an address with anything below it."""
        return bool(self._files.is_folder(self.root))

    def delete(self, name: str) -> None:
        """Removes a file; a name that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._files.delete(self.path(name))

    def delete_many(self, names: Iterable[str]) -> None:
        """Removes files, many with one request where the service can; missing ones are fine."""
        self._files.delete_many([self.path(name) for name in names])

    def sweep_temporary(self) -> int:
        """Removes temporary files whose writers are dead; returns how many. Local disk only, else 0."""
        return self._files.sweep(self.root) if self.is_local else 0

    def _parts(self, name: str) -> Iterator[bytes]:
        size = self.size(name)  # now, so that a missing file is said to be missing before anything is made

        def parts() -> Iterator[bytes]:
            offset = 0
            while offset < size:
                part = self.range(name, offset, min(PART_BYTES, size - offset))
                if not part:  # it became shorter while it was read: its hash will say so
                    return
                offset += len(part)
                yield part

        return parts()
