"""What verify checks of a prepare run beyond its hashes: the index leads to every medium, counts agree."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import DamageError
from raypipe.records import MEDIA_SCHEMA, SAMPLE_SCHEMA
from raypipe.store.files import Store
from raypipe.store.shards import Shard, read_block

Say = Callable[[str], None]
INDEX = "index.arrow"
ROW_SCHEMAS = {"media": (MEDIA_SCHEMA, "key"), "samples": (SAMPLE_SCHEMA, "id")}


class Places:
    """The index of a run, by the shard that each entry leads to.

    Args:
        table: the rows of index.arrow.
        source_sha256: of each medium's source file, as the unit that read it records it.
        say: is told every fault.
    """

    def __init__(self, table: pa.Table, source_sha256: dict[str, str], say: Say) -> None:
        self._say, self._source = say, source_sha256
        keys = table.column("key").combine_chunks()
        if len(keys) > 1 and not pc.all(pc.less_equal(keys[:-1], keys[1:])).as_py():
            say(f"{INDEX}: not sorted by key")
        media = table.filter(pc.equal(table.column("what"), "medium"))
        self.media: set[str] = set(media.column("key").to_pylist())
        if len(self.media) != media.num_rows:
            say(f"{INDEX}: a medium has two places")
        self.samples = table.num_rows - media.num_rows
        table = table.sort_by([("shard", "ascending"), ("batch", "ascending"), ("row", "ascending")])
        runs = pc.run_end_encode(table.column("shard").combine_chunks()) if table.num_rows else None
        self._parts: dict[str, pa.Table] = {}
        start = 0
        for end, name in zip(runs.run_ends, runs.values, strict=True) if runs is not None else ():
            self._parts[name.as_py()] = table.slice(start, end.as_py() - start)
            start = end.as_py()

    def check(self, name: str, shard: Shard) -> None:
        """Follows every entry that leads into this shard."""
        folder = name.split("/")[0]
        entries = self._parts.pop(name, None)
        if entries is None or folder not in ROW_SCHEMAS:
            if entries is not None:
                self._say(f"{INDEX}: leads into {name}, which holds neither media nor samples")
            return
        follow = _Follow(shard, *ROW_SCHEMAS[folder])
        for entry in entries.to_pylist():
            try:
                found = follow.row(entry)
            except (DamageError, IndexError, ValueError) as fault:
                self._say(f"{INDEX}: {entry['key']} does not lead to a row of {name} ({str(fault)[:80]})")
                continue
            if folder == "media" and not self._is(entry["key"], found):
                self._say(f"{INDEX}: {entry['key']} leads to another medium in {name}")
            elif folder == "samples" and found["id"] != entry["key"]:
                self._say(f"{INDEX}: {entry['key']} leads to another sample in {name}")

    def _is(self, key: str, found: dict[str, Any]) -> bool:
        """A key leads to its own row, or, being a byte-equal copy, to that of another key."""
        return found["sha256"] is not None and found["sha256"] == self._source.get(key)

    def check_samples(self, name: str, rows: pa.Table) -> None:
        """Every medium that a sample refers to has a place."""
        mentioned = set(pc.list_flatten(rows.column("media")).to_pylist())
        lost = sorted(str(key) for key in mentioned - self.media)
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            self._say(f"{name}: medium {lost[0]}{more} is not in the index")

    def check_rest(self) -> None:
        for name in sorted(self._parts)[:4]:
            self._say(f"{INDEX}: leads into {name}, which the manifest does not name")


class _Follow:
    """Reads the rows of one shard that entries lead to; entries come batch after batch."""

    def __init__(self, shard: Shard, schema: pa.Schema, column: str) -> None:
        self._shard, self._schema, self._column = shard, schema, column
        self._at: tuple[int, int, int] | None = None
        self._batch: pa.RecordBatch | None = None

    def row(self, entry: dict[str, Any]) -> dict[str, Any]:
        """What names the row: its key and source hash, or its id.

        Raises:
            DamageError, IndexError, ValueError: there is no such row, or its bytes lie elsewhere.
        """
        at = (entry["batch"], entry["offset"], entry["length"])
        if self._batch is None or at != self._at:
            self._batch, self._at = self._read(*at), at
        if not 0 <= entry["row"] < self._batch.num_rows:
            raise IndexError(f"no row {entry['row']}")
        names = ("key", "sha256") if self._column == "key" else (self._column,)
        return {name: self._batch.column(name)[entry["row"]].as_py() for name in names}

    def _read(self, number: int, offset: int, length: int) -> pa.RecordBatch:
        self._batch = None
        if not 0 <= number < self._shard.batches:
            raise IndexError(f"no batch {number}")
        batch = self._shard.batch(number)
        if self._column == "key" or length:  # the bytes of a sample's batch need not be given
            block = read_block(self._shard.range(offset, length), self._schema)
            if not block.column(self._column).equals(batch.column(self._column)):
                raise ValueError("its bytes are those of other rows")
        return batch


def check_media_totals(
    totals: dict[str, Any], places: Places, rejections: list[dict[str, str]], say: Say
) -> None:
    """The media that the index leads to, and those in quarantine, are as many as the totals say."""
    bad = sum(1 for r in rejections if r["what"] == "medium")
    there = {"media_ok": len(places.media), "media_quarantined": bad, "ok": places.samples}
    for name, counted in there.items():
        if name in totals and totals[name] != counted:
            say(f"totals: {name} is {totals[name]}, but there are {counted}")
    if "media" in totals and totals["media"] != totals.get("media_ok", 0) + totals.get(
        "media_quarantined", 0
    ):
        say(f"totals: {json.dumps(totals, sort_keys=True)} do not add up")


def source_hashes(store: Store, files: Iterable[str]) -> dict[str, str]:
    """The hash of every source file by medium, from all unit records; damaged ones are found elsewhere."""
    found: dict[str, str] = {}
    for name in files:
        if name.startswith("units/"):
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
                found.update(json.loads(store.read(name))["source_sha256"])
    return found


def check_unit(
    name: str, data: bytes, files: dict[str, dict[str, Any]], keys: dict[str, list[str]], say: Say
) -> None:
    """A unit's record names a shard as the manifest does, and its media in the order of the shard's rows.

    Args:
        files: the manifest's entries by path.
        keys: the keys of the rows of every media shard, by path.
    """
    try:
        record = json.loads(data)
        unit, file = record["unit"], record["file"]
        if unit != name.rpartition("/")[2].removesuffix(".json"):
            say(f"{name}: is the record of unit {unit}")
        if file is None:
            return
        if file != {k: v for k, v in files.get(file["path"], {}).items() if k in file}:
            say(f"{name}: {file['path']} is another file in the manifest")
        elif list(record["keys"]) != keys.get(file["path"]):
            say(f"{name}: other media than in {file['path']}")
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        say(f"{name}: no unit's record ({type(fault).__name__})")
