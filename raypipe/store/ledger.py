"""Ledgers: what was done, in immutable segments with one writer each, keyed by content.

S3 cannot append, and a file that is appended to can be torn; a segment is put once, whole, under a
name made from what it answers. A segment that is there is never made again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from raypipe.errors import DamageError
from raypipe.records import OLDER_SCHEMAS, to_table
from raypipe.store.files import Store
from raypipe.store.shards import Shard, encode


def read_table(store: Store, file: str, schema: pa.Schema) -> pa.Table:
    """The rows of one Arrow file, of this schema or of what was this schema in an older version.

    Raises:
        DamageError: missing, not whole, or of another schema.
    """
    data = None
    if not store.is_local:
        with contextlib.suppress(FileNotFoundError):  # the shard says so
            data = store.read(file)
    return shard_of(store, file, schema, data).table()


def shard_of(store: Store, file: str, schema: pa.Schema, data: bytes | None) -> Shard:
    """One Arrow file, of this schema or of what was this schema in an older version; see ``read_table``."""
    try:
        return Shard(store, file, schema, data)
    except DamageError:
        for old in [old for new, old in OLDER_SCHEMAS if new is schema]:
            with contextlib.suppress(DamageError):
                return Shard(store, file, old, data)
        raise


class Ledger:
    """The segments of one kind of record in one folder of a run."""

    def __init__(self, store: Store, folder: str, schema: pa.Schema) -> None:
        self.store, self.folder, self.schema = store, folder, schema

    def append(self, name: str, records: Sequence[Any]) -> bool:
        """Commits a segment; False when it is there already (its first writer won)."""
        data = encode(to_table(records, self.schema), batch=256)
        return self.store.put_new(f"{self.folder}/{name}.arrow", data)

    def names(self) -> set[str]:
        return {PurePosixPath(n).stem for n in self.store.list(self.folder, ".arrow")}

    def segment(self, name: str) -> list[dict[str, Any]]:
        """The rows of one segment."""
        return self.table(name).to_pylist()

    def table(self, name: str) -> pa.Table:
        """One segment; one that an older version wrote lacks the fields that are new."""
        return read_table(self.store, f"{self.folder}/{name}.arrow", self.schema)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, segment after segment in the order of their names."""
        out: list[dict[str, Any]] = []
        for name in sorted(self.names()):
            out += self.segment(name)
        return out
