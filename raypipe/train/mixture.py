"""Samples and media by number from committed shards, read through memory maps."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import DamageError, RequestError
from raypipe.records import SAMPLE_SCHEMA, MediumKind, Sample, samples_of
from raypipe.settings import Cache
from raypipe.store.index import Index, MediaReader
from raypipe.store.run import Run
from raypipe.store.shards import Shard
from raypipe.train.cache import CachedReader, MediaCache

TEXT, IMAGE, VIDEO = 0, 1, 2  # what is in a sample; one with both kinds counts as VIDEO
# Tokens of one medium of Video-LLaVA. They only sort samples by length, so another model's may differ.
VISUAL_TOKENS = {MediumKind.IMAGE: 256, MediumKind.VIDEO: 2056}

REQUESTS = 8  # to object storage at once


@dataclass(frozen=True)
class Columns:
    """Facts of all samples of a mixture, and of the stored media rows that they use.

    Per sample [samples]: ``part`` (of the mixture), ``kind`` (TEXT, IMAGE or VIDEO), ``words`` of all its
    turns, ``length`` (words + visual tokens, an estimate), ``starts`` [samples + 1] into ``rows`` and
    ``keys``.
    Per use of a medium: ``rows`` (number of the stored row), ``keys`` (number of the name it is used by).
    Per stored row, numbered in the order of storage: ``row_part``, ``row_shard`` (number in ``shards``),
    ``row_offset`` and ``row_length`` in bytes. Two names of byte-equal files lead to the same row.
    """

    part: np.ndarray
    kind: np.ndarray
    words: np.ndarray
    length: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    keys: np.ndarray
    names: pa.Array
    ids: pa.ChunkedArray
    row_part: np.ndarray
    row_shard: np.ndarray
    row_offset: np.ndarray
    row_length: np.ndarray
    shards: tuple[str, ...]

    def first_row(self) -> np.ndarray:
        """The stored row of each sample's first medium; -1 for text."""
        first = np.full(len(self.kind), -1, np.int64)
        have = np.flatnonzero(np.diff(self.starts))
        first[have] = self.rows[self.starts[have]]
        return first

    def rows_of(self, numbers: Sequence[int]) -> np.ndarray:
        """The stored rows that some samples use, in the order of storage, each once."""
        found = [self.rows[self.starts[n] : self.starts[n + 1]] for n in numbers]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


class Mixture:
    """The samples of several prepare runs as one numbered collection.

    Args:
        runs: roots of finished prepare runs, local or ``s3://``.
        cache: where the media of runs on object storage are kept; None reads each row from there.
    """

    def __init__(self, runs: Sequence[str], cache: Cache | None = None) -> None:
        self.parts = [PreparedRun(r, cache) for r in runs]
        self._ends = list(accumulate(len(p) for p in self.parts))
        if not len(self):
            raise RequestError(f"no samples in {', '.join(runs)}", "look at their quarantine.jsonl")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def sample(self, number: int) -> Sample:
        part, within = self._find(number)
        return part.sample(within)

    def frames(self, number: int) -> list[list[bytes]]:
        """The stored frames of each medium of a sample, in the order of its tags."""
        part, _ = self._find(number)
        return [part.frames(key) for key in self.sample(number).media]

    def views(self, number: int, keys: Sequence[str]) -> list[list[memoryview]]:
        """The stored frames of some media of a sample where they lie, not copied."""
        part, _ = self._find(number)
        return [part.views(key) for key in keys]

    def texts(self, number: int) -> list[str]:
        return [t.text for t in self.sample(number).turns]

    @cached_property
    def columns(self) -> Columns:
        """Facts of all samples, read once, column by column; about 2 s for 500,000 samples.

        Raises:
            DamageError: a sample names a medium that the index does not.
        """
        return _joined([part.columns() for part in self.parts])

    def fetch(self, rows: np.ndarray, stop: threading.Event | None = None) -> None:
        """Brings stored rows (numbers of ``columns``) into the cache, by few requests.

        Args:
            stop: set by another thread, it ends this before all are there.

        Raises:
            ServiceError: the storage or the cache's disk refuses.
        """
        columns = self.columns

        def act(shard: int) -> None:
            if stop is None or not stop.is_set():
                wanted = rows[columns.row_shard[rows] == shard]
                part = self.parts[columns.row_part[wanted[0]]]
                places = zip(columns.row_offset[wanted], columns.row_length[wanted], strict=True)
                part.fetch(columns.shards[shard], [(int(offset), int(length)) for offset, length in places])

        with ThreadPoolExecutor(REQUESTS) as pool:
            for _ in pool.map(act, np.unique(columns.row_shard[rows]).tolist()):
                pass

    @property
    def is_local(self) -> bool:
        return all(part.run.store.is_local for part in self.parts)

    def _find(self, number: int) -> tuple[PreparedRun, int]:
        place = bisect.bisect_right(self._ends, number)
        return self.parts[place], number - (self._ends[place - 1] if place else 0)


class PreparedRun:
    """One finished prepare run, open for reading."""

    def __init__(self, root: str, cache: Cache | None = None) -> None:
        self.run = Run.open(root, "prepare")
        manifest = self.run.manifest
        self.facts: dict[str, Any] = manifest["facts"]
        names = [f["path"] for f in manifest["files"] if f["path"].startswith("samples/")]
        tables = [Shard(self.run.store, n, SAMPLE_SCHEMA).table() for n in names]
        self._samples: pa.Table = pa.concat_tables(tables) if tables else SAMPLE_SCHEMA.empty_table()
        index = Index(self.run.store)
        if self.run.store.is_local or cache is None:
            self._media = MediaReader(self.run.store, index)
        else:
            hashes = {f["path"]: f["sha256"] for f in manifest["files"]}
            self._media = CachedReader(self.run.store, index, MediaCache.of(cache), hashes)

    def __len__(self) -> int:
        return self._samples.num_rows

    def sample(self, number: int) -> Sample:
        return samples_of(self._samples.slice(number, 1).to_pylist())[0]

    def frames(self, key: str) -> list[bytes]:
        """The stored frames of one medium.

        Raises:
            DamageError: the index does not name it, or its shard is damaged.
        """
        return self._media.frames(key)

    def views(self, key: str) -> list[memoryview]:
        """The same where they lie, not copied."""
        return self._media.views(key)

    def fetch(self, shard: str, places: Sequence[tuple[int, int]]) -> None:
        """Brings rows of a shard, by (offset, length), into the cache; nothing to do for a local run."""
        if isinstance(self._media, CachedReader):
            self._media.fetch(shard, places)

    def columns(self) -> Columns:
        """The facts of this run alone; ``part`` and ``row_part`` are 0."""
        samples = self._samples
        counts = _counts(samples.column("media"))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        kinds = pc.equal(_flat(samples.column("kinds")), MediumKind.VIDEO.value).to_numpy(
            zero_copy_only=False
        )
        videos = np.diff(np.concatenate([[0], np.cumsum(kinds)])[starts]).astype(np.int64)
        kind = np.where(videos > 0, VIDEO, np.where(counts > 0, IMAGE, TEXT)).astype(np.int8)
        words = _words(samples.column("turns"))
        visual = VISUAL_TOKENS[MediumKind.VIDEO] * videos + VISUAL_TOKENS[MediumKind.IMAGE] * (
            counts - videos
        )
        coded = pc.dictionary_encode(_flat(samples.column("media")))
        place = self._places(coded.dictionary)
        keys = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        zeros = np.zeros(len(samples), np.int32)
        rows = place.row_of[keys]
        return Columns(
            zeros,
            kind,
            words,
            words + visual,
            starts,
            rows,
            keys,
            coded.dictionary,
            samples.column("id"),
            np.zeros(len(place.offset), np.int32),
            place.shard,
            place.offset,
            place.length,
            place.shards,
        )

    def _places(self, names: pa.Array) -> _Places:
        """Where media lie, by name, from the columns of the index."""
        table = self._media.index.table()
        table = table.filter(pc.equal(table.column("what"), "medium"))
        at = pc.index_in(names, value_set=table.column("key").combine_chunks())
        if at.null_count:
            missing = names.filter(pc.is_null(at))[0].as_py()
            raise DamageError(
                f"medium {missing} is not in the index of {self.run.store.root}", "raypipe verify"
            )
        found = table.select(["shard", "offset", "length"]).take(at)
        shards = tuple(sorted(pc.unique(found.column("shard")).to_pylist()))
        shard = pc.index_in(found.column("shard"), value_set=pa.array(shards, pa.string())).to_numpy()
        offset, length = (found.column(name).to_numpy() for name in ("offset", "length"))
        both = (
            np.stack([shard.astype(np.int64), offset], axis=1) if len(shard) else np.zeros((0, 2), np.int64)
        )
        rows, first, row_of = np.unique(both, axis=0, return_index=True, return_inverse=True)
        return _Places(
            row_of.reshape(-1), shards, rows[:, 0].astype(np.int32), rows[:, 1].copy(), length[first]
        )


@dataclass(frozen=True)
class _Places:
    row_of: np.ndarray  # by name
    shards: tuple[str, ...]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray


def _joined(parts: Sequence[Columns]) -> Columns:
    """The columns of several runs, renumbered; a name that two of them use has one number."""
    names = pa.concat_arrays([p.names.cast(pa.string()) for p in parts])
    coded = pc.dictionary_encode(names)
    numbers = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    before = {
        "samples": _before([len(p.rows) for p in parts]),
        "names": _before([len(p.names) for p in parts]),
        "rows": _before([len(p.row_offset) for p in parts]),
        "shards": _before([len(p.shards) for p in parts]),
    }
    starts = [p.starts[:-1] + b for p, b in zip(parts, before["samples"], strict=False)]
    uses = sum(len(p.rows) for p in parts)

    def together(name: str, add: Sequence[int] | None = None) -> np.ndarray:
        values = [getattr(p, name) for p in parts]
        return np.concatenate([v + a for v, a in zip(values, add or [0] * len(values), strict=True)])

    return Columns(
        together("part", list(range(len(parts)))),
        together("kind"),
        together("words"),
        together("length"),
        np.concatenate([*starts, [uses]]).astype(np.int64),
        together("rows", before["rows"]),
        numbers[together("keys", before["names"])],
        coded.dictionary,
        pa.chunked_array([c for p in parts for c in p.ids.chunks], pa.string()),
        together("row_part", list(range(len(parts)))),
        together("row_shard", before["shards"]),
        together("row_offset"),
        together("row_length"),
        tuple(s for p in parts for s in p.shards),
    )


def _before(counts: Sequence[int]) -> list[int]:
    return [int(n) for n in np.cumsum([0, *counts])[:-1]]


def _counts(column: pa.ChunkedArray) -> np.ndarray:
    return pc.list_value_length(column).to_numpy().astype(np.int64)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    values = pc.list_flatten(column)
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _words(turns: pa.ChunkedArray) -> np.ndarray:
    """Words of all turns of each sample [samples]."""
    out = [np.zeros(0, np.int64)]
    for chunk in turns.chunks:
        each = _words_of(pc.struct_field(chunk.flatten(), "text"))
        ends = np.concatenate([[0], np.cumsum(pc.list_value_length(chunk).to_numpy(zero_copy_only=False))])
        out.append(np.diff(np.concatenate([[0], np.cumsum(each)])[ends]))
    return np.concatenate(out)


def _words_of(texts: pa.StringArray) -> np.ndarray:
    """Words of each text, counted in its bytes: a regular expression takes ten times as long."""
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(len(texts), np.int64)
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    seen = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] > ord(" ")
    first = seen.copy()
    first[1:] &= ~seen[:-1]
    starts = (ends - ends[0])[:-1][np.diff(ends) > 0]
    first[starts] = seen[starts]
    return np.diff(np.concatenate([[0], np.cumsum(first, dtype=np.int64)])[ends - ends[0]])
