"""Media rows of runs on object storage, kept in a bounded folder that the ranks of a node share.

One file a row: its bytes and their CRC-32, under a name made from the shard's hash, so that the same row is
kept once whatever run or address it was read by. Files appear whole, by rename. Who fetches from a shard
holds that shard's lock, so two ranks of a node never fetch the same row; the system frees a lock whose
holder died. The bytes in use are counted in a file of their own; when they pass the limit, what was used
longest ago goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from raypipe.errors import DamageError, ServiceError
from raypipe.records import fingerprint
from raypipe.settings import Cache, expanded
from raypipe.store.files import Store
from raypipe.store.index import Index, MediaReader, Place

T = TypeVar("T")
RANGE_BYTES = 16 << 20  # of one request
GAP_BYTES = 1 << 20  # the widest hole between two wanted rows that is read along
WASTE = 0.05  # bytes of holes, as a share of what is wanted
SWEPT_TO = 0.75  # of the limit
FORGOTTEN_S = 3600.0  # a temporary file this old has no writer any more
_CHECK = 4  # bytes of the CRC at the end of a file


def coalesced(
    places: Sequence[tuple[int, int]], gap: int = GAP_BYTES, most: int = RANGE_BYTES, waste: float = WASTE
) -> list[list[tuple[int, int]]]:
    """Groups rows (offset, length) of a file into ranges, each read by one request.

    The narrowest holes are read along first, as long as all holes together stay below ``waste`` of what is
    wanted; no range passes ``most`` bytes unless it is one row.
    """
    rows = sorted(set(places))
    allowed = waste * sum(length for _, length in rows)
    holes = [max(0, b[0] - sum(a)) for a, b in itertools.pairwise(rows)]
    joined = set()
    for at in sorted(range(len(holes)), key=lambda i: (holes[i], i)):
        if holes[at] > min(gap, allowed):
            break
        allowed -= holes[at]
        joined.add(at)
    groups: list[list[tuple[int, int]]] = []
    for at, row in enumerate(rows):
        if at - 1 in joined and sum(row) - groups[-1][0][0] <= most:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


class MediaCache:
    """The folder. Any number of processes of a machine may use it at once.

    Args:
        limit: bytes of rows that it may hold.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    @classmethod
    def of(cls, settings: Cache) -> MediaCache:
        return cls(expanded(settings.folder), int(settings.gib * (1 << 30)))

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def read(self, name: str) -> bytes | None:
        """A row's bytes; None where it is not kept or not what was written, in which case it is removed."""
        path = self._path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError:
            data = b""
        if len(data) < _CHECK or zlib.crc32(memoryview(data)[:-_CHECK]).to_bytes(4, "big") != data[-_CHECK:]:
            self.drop(name)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data[:-_CHECK]

    def put(self, name: str, data: bytes) -> None:
        """Keeps a row, and makes room when there is too much.

        Raises:
            ServiceError: the disk refuses.
        """
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data + zlib.crc32(data).to_bytes(_CHECK, "big"))
            with self.lock("bytes") as counter:
                self._count(counter, len(data) + _CHECK)
                os.replace(temporary, path)
        except OSError as fault:
            with contextlib.suppress(OSError):
                temporary.unlink()
            remedy = "free space there, or name another cache.folder"
            raise ServiceError(f"cannot write {path}: {fault.strerror or fault}", remedy) from fault

    def drop(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._path(name).unlink()

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[int]:
        """Waits until nobody else on this machine holds the lock of this name; yields its open file."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    def _count(self, counter: int, more: int) -> None:
        """Counts a file that is about to appear, and makes room for it; the counter's lock is held."""
        held = os.pread(counter, 20, 0)
        total = (int(held) if held.isdigit() else self._total()) + more
        if total > self.limit:
            total = self._sweep(int(self.limit * SWEPT_TO) - more) + more
        os.pwrite(counter, b"%020d" % total, 0)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        for folder in os.scandir(self.folder):
            if folder.is_dir() and folder.name != "locks":
                yield from os.scandir(folder.path)

    def _total(self) -> int:
        return sum(size for _, size, _ in self._sizes())

    def _sizes(self) -> Iterator[tuple[float, int, str]]:
        """When it was used last, bytes and path of each file, temporary ones too."""
        for entry in self._files():
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat()
                yield found.st_mtime, found.st_size, entry.path

    def _sweep(self, room: int) -> int:
        """Removes what was used longest ago until ``room`` bytes are left; returns how many are."""
        files = sorted(self._sizes())
        total = sum(size for _, size, _ in files)
        now = time.time()
        for used, size, path in files:
            if path.endswith(".tmp"):
                if now - used < FORGOTTEN_S:
                    continue
            elif total <= max(room, 0):
                continue
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
        return total

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name


class CachedReader(MediaReader):
    """Media rows by key of a run on object storage, through the cache.

    Args:
        hashes: SHA-256 of each shard, from the manifest.
    """

    def __init__(self, store: Store, index: Index, cache: MediaCache, hashes: dict[str, str]) -> None:
        super().__init__(store, index)
        self.cache, self._hashes = cache, hashes

    def row(self, key: str) -> dict[str, Any]:
        """As MediaReader's. A kept row that Arrow cannot read is fetched again before it counts as damage."""
        return self._again(super().row, key)

    def views(self, key: str) -> list[memoryview]:
        return self._again(super().views, key)

    def _again(self, read: Callable[[str], T], key: str) -> T:
        try:
            return read(key)
        except DamageError:
            place = self.index.find(key)
            if place is None or not self.cache.has(self._name(place.shard, place.offset, place.length)):
                raise
            self.cache.drop(self._name(place.shard, place.offset, place.length))
            return read(key)

    def fetch(self, shard: str, places: Sequence[tuple[int, int]]) -> None:
        """Fetches what is not kept yet of some rows (offset, length) of a shard, by few requests.

        Raises:
            ServiceError: the service or the cache's disk refuses.
            FileNotFoundError: no such shard.
        """
        if self._missing(shard, places):
            with self.cache.lock(self._lock(shard)):
                for group in coalesced(self._missing(shard, places)):
                    self._fetch(shard, group)

    def _missing(self, shard: str, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [place for place in places if not self.cache.has(self._name(shard, *place))]

    def _fetch(self, shard: str, group: Sequence[tuple[int, int]]) -> None:
        first = group[0][0]
        data = memoryview(self.store.range(shard, first, sum(group[-1]) - first))
        for offset, length in group:
            part = bytes(data[offset - first : offset - first + length])
            if len(part) == length:  # a shard that is too short is damage, said when the row is read
                self.cache.put(self._name(shard, offset, length), part)

    def _remote(self, place: Place) -> bytes:
        name = self._name(place.shard, place.offset, place.length)
        data = self.cache.read(name)
        if data is None:
            with self.cache.lock(self._lock(place.shard)):
                data = self.cache.read(name)  # another rank may have fetched it meanwhile
                if data is None:
                    data = super()._remote(place)
                    if len(data) == place.length:
                        self.cache.put(name, data)
        return data

    def _name(self, shard: str, offset: int, length: int) -> str:
        return f"{self._hash(shard)[:24]}-{offset}-{length}"

    def _lock(self, shard: str) -> str:
        return f"shard-{self._hash(shard)[:2]}"

    def _hash(self, shard: str) -> str:
        return self._hashes.get(shard) or fingerprint(self.store.root, shard)
