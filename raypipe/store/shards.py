"""Shards: Arrow IPC *files* with small record batches, read only against a known schema.

The stream format hides truncation and an extension type may execute code when read, so raypipe
writes files, records their hash, and refuses a schema that is not the one it expects.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raypipe.errors import DamageError
from raypipe.store.files import Store

ROWS_PER_BATCH = 8


@dataclass(frozen=True)
class Encoded:
    """An Arrow IPC file in memory, and where in it each record batch lies: (offset, length) in bytes."""

    data: bytes
    blocks: tuple[tuple[int, int], ...]


def encode(table: pa.Table, metadata: dict[str, str] | None = None, batch: int = ROWS_PER_BATCH) -> bytes:
    """An Arrow IPC file in memory; the same table and metadata give the same bytes."""
    return encode_blocks(table, metadata, batch).data


def encode_blocks(table: pa.Table, metadata: dict[str, str] | None = None, batch: int = 1) -> Encoded:
    """The same, with the place of each batch of ``batch`` rows: what an index needs."""
    if metadata:
        table = table.replace_schema_metadata({k: metadata[k] for k in sorted(metadata)})
    return encode_batches(table.combine_chunks().to_batches(max_chunksize=batch), table.schema)


def encode_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Encoded:
    """The same, cut where the caller cut it."""
    sink = io.BytesIO()
    blocks = []
    with pa.ipc.new_file(sink, schema) as writer:
        for part in batches:
            writer.write_batch(part)
            length = pa.ipc.get_record_batch_size(part)  # the first write puts the schema before the batch
            blocks.append((sink.tell() - length, length))
    return Encoded(sink.getvalue(), tuple(blocks))


def read_block(data: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The record batch whose bytes an index gives the place of, its offsets checked.

    Raises:
        DamageError: these bytes are not one whole record batch.
    """
    try:
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(pa.py_buffer(data)), schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, EOFError) as fault:
        raise DamageError(f"not a record batch ({str(fault)[:120]})") from fault
    return batch


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def metadata_of(table: pa.Table) -> dict[str, str]:
    """The schema metadata of a table as text."""
    return {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}


class Shard:
    """One open shard, memory mapped where it lies on local disk.

    Args:
        data: its bytes, where they were read already.

    Raises:
        DamageError: not a whole Arrow file, or not of the expected schema.
    """

    def __init__(self, store: Store, name: str, schema: pa.Schema, data: bytes | None = None) -> None:
        self.name = f"{store.root}/{name}"
        try:
            if data is None and store.is_local:
                self._source: Any = pa.memory_map(store.path(name))
            else:
                self._source = pa.BufferReader(store.read(name) if data is None else data)
            self._reader = pa.ipc.open_file(self._source)
        except FileNotFoundError:
            raise DamageError(f"shard is missing: {self.name}", "run the verb that wrote it again") from None
        except (pa.ArrowException, OSError) as fault:
            raise self._damage(fault) from fault
        if not self._reader.schema.equals(schema, check_metadata=False):
            raise DamageError(f"shard {self.name} has a schema that raypipe did not write")

    @property
    def batches(self) -> int:
        return self._reader.num_record_batches

    def batch(self, batch: int) -> pa.RecordBatch:
        """One record batch, its offsets checked."""
        try:
            part = self._reader.get_batch(batch)
            part.validate(full=True)
        except (pa.ArrowException, OSError, IndexError) as fault:
            raise self._damage(fault) from fault
        return part

    def range(self, offset: int, length: int) -> bytes:
        """The bytes at a place of the file; fewer where it ends, none where there is no such place."""
        if offset < 0 or length < 0 or offset > self._source.size():
            return b""
        self._source.seek(offset)
        return self._source.read(length)

    def row(self, batch: int, row: int) -> dict[str, Any]:
        """One row as Python values, its offsets checked."""
        try:
            part = self._reader.get_batch(batch).slice(row, 1)
            part.validate(full=True)
        except (pa.ArrowException, OSError, IndexError) as fault:
            raise self._damage(fault) from fault
        return part.to_pylist()[0]

    def table(self) -> pa.Table:
        """The whole shard, its offsets checked."""
        try:
            table = self._reader.read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError) as fault:
            raise self._damage(fault) from fault
        return table

    def _damage(self, fault: Exception) -> DamageError:
        return DamageError(
            f"shard {self.name} is damaged ({str(fault)[:120]})", "raypipe verify shows what else is"
        )
