"""Random access to stored rows: which shard holds a key, and that one row out of it.

The index and the shards on local disk are memory mapped, so that what is resident is what was touched.
A key is found by binary search in the file's own bytes; no list of keys is ever made.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raypipe.errors import DamageError
from raypipe.records import INDEX_SCHEMA, MEDIA_SCHEMA
from raypipe.store.files import Store

INDEX = "index.arrow"
OPEN_SHARDS = 256
_FRAMES = MEDIA_SCHEMA.get_field_index("frames")
# What reading a damaged file raises, from Arrow or from looking into its bytes with numpy.
_FAULTS = (pa.ArrowException, OSError, ValueError, IndexError, OverflowError, EOFError)
_VERIFY = "raypipe verify shows what is damaged"


class Place(NamedTuple):
    """Where a row lies: its shard, the record batch and the row in it, and the batch's bytes in the file."""

    what: str  # "medium" | "sample"
    shard: str
    batch: int
    row: int
    offset: int
    length: int


class Index:
    """The sorted index of a run: key -> place.

    Args:
        store: of the run; a remote index is copied to a file that has no name, and mapped there.

    Raises:
        DamageError: missing, not a whole Arrow file, or not of INDEX_SCHEMA.
    """

    def __init__(self, store: Store, name: str = INDEX) -> None:
        self.name = f"{store.root}/{name}"
        self._reader = _opened(self.name, lambda: _mapped(store, name), INDEX_SCHEMA)
        self._parts: list[_Part | None] = [None] * self._reader.num_record_batches
        # The first key of each part but the first; an index is best written as one record batch.
        self._firsts = [self._part(n).first for n in range(1, len(self._parts))]

    def find(self, key: str) -> Place | None:
        """The place of a key, or None; a few microseconds.

        Raises:
            DamageError: the entry cannot be read.
        """
        if not self._parts:
            return None
        wanted = key.encode(errors="surrogatepass")
        part = self._part(bisect_right(self._firsts, wanted))
        try:
            return part.find(wanted)
        except _FAULTS as fault:
            raise self._damage(fault) from fault

    def table(self) -> pa.Table:
        """The whole index as columns, over the mapped file.

        Raises:
            DamageError: it cannot be read.
        """
        try:
            table = self._reader.read_all()
            table.validate(full=True)
        except _FAULTS as fault:
            raise self._damage(fault) from fault
        return table

    def _part(self, number: int) -> _Part:
        part = self._parts[number]
        if part is None:
            try:
                part = self._parts[number] = _Part(self._reader.get_batch(number))
            except _FAULTS as fault:
                raise self._damage(fault) from fault
        return part

    def _damage(self, fault: Exception) -> DamageError:
        return DamageError(f"index {self.name} is damaged ({str(fault)[:120]})", _VERIFY)


class _Part:
    """One record batch of an index. Its bytes are looked at through numpy, which knows where they end."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        batch.validate()
        self._keys, self._what, self._shard = (_Strings(batch.column(n)) for n in range(3))
        self._batch, self._row = (_numbers(batch.column(n), np.int32) for n in (3, 4))
        self._offset, self._length = (_numbers(batch.column(n), np.int64) for n in (5, 6))
        self._fixed = self._keys.fixed()
        self.first = self._keys[0] if len(self._keys) else b""

    def find(self, wanted: bytes) -> Place | None:
        keys = self._keys if self._fixed is None else self._fixed
        if self._fixed is None:
            at = bisect_left(self._keys, wanted)
        elif len(wanted) != self._fixed.itemsize:
            return None  # numpy would copy the whole column to make it wider
        else:
            at = int(self._fixed.searchsorted(wanted))
        if at == len(keys) or keys[at] != wanted:
            return None
        return Place(
            self._what[at].decode(),
            self._shard[at].decode(),
            self._batch.item(at),
            self._row.item(at),
            self._offset.item(at),
            self._length.item(at),
        )


class _Strings:
    """A column of strings as bytes, sliced out of its buffer when asked for."""

    def __init__(self, column: pa.Array) -> None:
        _, offsets, data = column.buffers()
        self._count = len(column)
        self._ends = (
            np.frombuffer(offsets, np.int32, self._count + 1) if self._count else np.zeros(1, np.int32)
        )
        self._data = memoryview(data if data is not None else b"")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: int) -> bytes:
        start, end = self._ends.item(at), self._ends.item(at + 1)
        if not 0 <= start <= end <= len(self._data):
            raise ValueError("a string leads out of its buffer")
        return self._data[start:end].tobytes()

    def fixed(self) -> np.ndarray | None:
        """The column as an array of S<width> over its buffer, where all strings are equally long."""
        count = self._count
        width = self._ends.item(1) if count else 0
        if width <= 0 or self._ends.item(0) != 0 or not bool((np.diff(self._ends) == width).all()):
            return None
        return np.frombuffer(self._data, f"S{width}", count)


def _numbers(column: pa.Array, kind: Any) -> np.ndarray:
    data = column.buffers()[1]
    return np.frombuffer(data, kind, len(column)) if len(column) else np.zeros(0, kind)


class MediaReader:
    """Media rows by key, straight from the place that the index names.

    Args:
        open_shards: how many memory maps are kept open (the least recently used is closed).
    """

    def __init__(self, store: Store, index: Index | None = None, open_shards: int = OPEN_SHARDS) -> None:
        self.store = store
        self.index = index or Index(store)
        self._map = lru_cache(maxsize=open_shards)(self._open)

    def row(self, key: str) -> dict[str, Any]:
        """One media row. Several keys may name the same row, so its own ``key`` can be another one.

        Raises:
            DamageError: the index does not name the key, or its shard is missing or damaged.
        """
        place = self._place(key)
        batch = self._batch(place)
        try:
            batch.validate(full=True)
            return batch.slice(place.row, 1).to_pylist()[0]
        except _FAULTS as fault:
            raise self._damage(place, fault) from fault

    def frames(self, key: str) -> list[bytes]:
        """The encoded frames of a medium, nothing else of its row looked at.

        Raises:
            DamageError: as ``row``.
        """
        return [bytes(view) for view in self.views(key)]

    def views(self, key: str) -> list[memoryview]:
        """The same where they lie, not copied; a view keeps its shard's map open.

        Raises:
            DamageError: as ``row``.
        """
        place = self._place(key)
        batch = self._batch(place)
        try:
            column = batch.column(_FRAMES)
            column.validate(full=True)
            return _views(column[place.row].values)
        except (*_FAULTS, TypeError, AttributeError) as fault:
            raise self._damage(place, fault) from fault

    def _place(self, key: str) -> Place:
        place = self.index.find(key)
        if place is None or place.what != "medium":
            raise DamageError(f"medium {key} is not in the index of {self.store.root}", "raypipe verify")
        return place

    def _batch(self, place: Place) -> pa.RecordBatch:
        """The record batch of a row, its values not looked at yet."""
        _, _, batch, row, offset, length = place
        try:
            if min(batch, row, offset) < 0 or length <= 0:
                raise ValueError("the index names no place in it")
            if self.store.is_local:
                data = self._map(place.shard)
                if offset + length > data.size:
                    raise ValueError("the index leads behind its end")
                found = pa.ipc.read_record_batch(data.slice(offset, length), MEDIA_SCHEMA)
            else:
                data = pa.py_buffer(self._remote(place))
                found = pa.ipc.read_record_batch(data, MEDIA_SCHEMA)
        except FileNotFoundError:
            name = f"{self.store.root}/{place.shard}"
            raise DamageError(f"shard is missing: {name}", "run the verb that wrote it again") from None
        except _FAULTS as fault:
            raise self._damage(place, fault) from fault
        if row >= found.num_rows:
            raise self._damage(place, IndexError(f"{found.num_rows} rows, the index names row {row}"))
        return found

    def _remote(self, place: Place) -> bytes:
        """The bytes of a record batch that is on object storage."""
        return self.store.range(place.shard, place.offset, place.length)

    def _open(self, name: str) -> pa.Buffer:
        """A shard's bytes through a memory map, its schema looked at once."""
        full = f"{self.store.root}/{name}"
        source = pa.memory_map(self.store.path(name))
        _opened(full, lambda: source, MEDIA_SCHEMA)
        source.seek(0)
        return source.read_buffer()

    def _damage(self, place: Place, fault: Exception) -> DamageError:
        return DamageError(f"shard {self.store.root}/{place.shard} is damaged ({str(fault)[:120]})", _VERIFY)


def _views(frames: pa.LargeBinaryArray) -> list[memoryview]:
    """The values of an array that was validated, over its own memory."""
    if frames.null_count:
        raise ValueError("a frame is missing")
    _, offsets, data = frames.buffers()
    if not len(frames) or data is None:
        return [memoryview(b"")] * len(frames)
    ends = np.frombuffer(offsets, np.int64)[frames.offset : frames.offset + len(frames) + 1].tolist()
    whole = memoryview(data).cast("B")
    return [whole[begin:end] for begin, end in itertools.pairwise(ends)]


def _opened(name: str, source: Callable[[], Any], schema: pa.Schema) -> Any:
    """A reader of an Arrow file of the expected schema.

    Raises:
        DamageError: missing, damaged, or of another schema.
    """
    try:
        reader = pa.ipc.open_file(source())
    except FileNotFoundError:
        raise DamageError(f"{name} is missing", "run the verb that wrote it again") from None
    except _FAULTS as fault:
        raise DamageError(f"{name} is damaged ({str(fault)[:120]})", _VERIFY) from fault
    if not reader.schema.equals(schema, check_metadata=False):
        raise DamageError(f"{name} has a schema that raypipe did not write")
    return reader


def _mapped(store: Store, name: str) -> pa.MemoryMappedFile:
    if store.is_local:
        return pa.memory_map(store.path(name))
    handle, copy = tempfile.mkstemp(prefix="raypipe-index-")
    os.close(handle)
    try:
        store.fetch(name, Path(copy))
        return pa.memory_map(copy)
    finally:
        os.unlink(copy)
