"""The end of a prepare run: samples, index, quarantine and manifest from what the units committed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raypipe.prepare.held import MEDIA, UNITS, Record, recipe, record_bytes, record_name, rows_of
from raypipe.prepare.near import nearest_medium
from raypipe.prepare.read import Annotations
from raypipe.prepare.survey import Survey, is_removed, media_keys
from raypipe.prepare.units import PLAN, Plan
from raypipe.records import (
    INDEX_SCHEMA,
    SAMPLE_SCHEMA,
    Clip,
    Reason,
    Rejection,
    Sample,
    rejections_of,
    to_table,
)
from raypipe.settings import DatasetSettings
from raypipe.store.files import Store
from raypipe.store.run import FileEntry, Manifest, Run
from raypipe.store.shards import encode_batches, encode_blocks, sha256

SAMPLES_PER_SHARD, SAMPLES_PER_BATCH = 16384, 64
HINTS = 100  # so many missing files are looked for under a near name
SOFTWARE = ("av", "decord", "pillow", "pyarrow")

Check = Callable[[], None]
Place = tuple[str, int, int, int, int]  # shard, batch, row, offset, length


@dataclass
class Outcome:
    """What became of the media: the place of each good one, the rejection of each bad one."""

    places: dict[str, Place] = field(default_factory=dict)
    bad: dict[str, Rejection] = field(default_factory=dict)
    aliases: int = 0

    def totals(self) -> dict[str, int]:
        return {
            "media_ok": len(self.places),
            "media_quarantined": len(self.bad),
            "aliases": self.aliases,
        }


def outcome_of(records: Iterable[Record], wanted: frozenset[str]) -> Outcome:
    """Sorts the units' results by medium; byte-equal copies in different units share one row, too."""
    out = Outcome()
    first: dict[str, tuple[str, Place]] = {}  # by content
    for record in records:
        place_of = {
            key: (record["file"]["path"], i, 0, *block)
            for i, (key, block) in enumerate(zip(record["keys"], record["blocks"], strict=True))
        }
        for key, row in sorted(rows_of(record).items()):
            if key in wanted:
                owner, place = first.setdefault(record["source_sha256"][key], (key, place_of[row]))
                out.places[key] = place
                out.aliases += owner != key
        out.bad |= {r.id: r for r in rejections_of(record["rejections"]) if r.id in wanted}
    out.bad = {key: r for key, r in out.bad.items() if key not in out.places}
    return out


def commit(
    run: Run,
    settings: DatasetSettings,
    annotations: Annotations,
    found: Survey,
    plan: Plan,
    records: Sequence[Record],
    inputs: dict[str, Any],
    parents: list[dict[str, str]],
    check: Check,
) -> dict[str, int]:
    """Writes everything but the media shards, which are there, and commits; returns the totals.

    Args:
        check: raises where the folder is another driver's by now; called before each step, since a driver
            may have been paused for any time.
    """
    result = outcome_of(records, frozenset(m.key for m in found.media))
    check()
    run.reopen()
    files = [FileEntry(**r["file"]) for r in records if r["file"]]
    files += [_entry(record_name(r["unit"]), 0, record_bytes(r)) for r in records]
    files.append(_entry(plan.name, 0, plan.data))
    check()
    sweep(run.store, files)
    writer = _Samples(run.store, check)
    rejections: list[Rejection] = []
    for item in annotations:
        if isinstance(item, Rejection):
            rejections.append(item)
        elif not is_removed(item, found.removed):
            _place(item, found, result, writer, rejections, settings)
    files += writer.close()
    check()
    media = {key: ("medium", place) for key, place in result.places.items()}
    files.append(_write_index(run.store, writer.places | media))
    totals = {
        "inputs": writer.count + len(rejections),
        "ok": writer.count,
        "quarantined": len(rejections),
        "removed": sum(annotations.records.values()) - writer.count - len(rejections),
        "media": len(found.media),
        **result.totals(),
        "frames": sum(r["frames"] for r in records),
        "bytes": sum(f.bytes for f in files),
    }
    manifest = Manifest(
        kind="prepare",
        files=files,
        totals=totals,
        inputs=inputs,
        parents=parents,
        software={p: importlib.metadata.version(p) for p in SOFTWARE},
        facts=recipe(settings),
    )
    check()
    run.commit(manifest, [*rejections, *result.bad.values()])
    return totals


def sweep(store: Store, files: list[FileEntry]) -> None:
    """Removes what no unit names (left by a kill), and units and plans of another input.

    Records go before their shards, so that a record never names a shard that is not there.
    """
    named = {f.path for f in files}
    for folder in (UNITS, MEDIA, PLAN, "samples", "attempts"):
        store.delete_many(name for name in store.list(folder) if name not in named)
    store.sweep_temporary()


def _place(
    clip: Clip,
    found: Survey,
    result: Outcome,
    writer: _Samples,
    rejections: list[Rejection],
    settings: DatasetSettings,
) -> None:
    media = media_keys(clip, found)
    fault = next((result.bad[key] for _, key in media if key in result.bad), None)
    if fault is None:
        kinds = tuple(ref.kind for ref, _ in media)
        writer.add(Sample(clip.id, clip.dataset, clip.turns, tuple(key for _, key in media), kinds))
        return
    detail = f"{clip.source}: {fault.detail}"
    if fault.reason is Reason.MEDIA_MISSING and len(rejections) < HINTS:
        detail += _hint(settings, fault.path)
    rejections.append(Rejection(clip.id, "sample", fault.reason, detail, fault.path))


def _hint(settings: DatasetSettings, path: str) -> str:
    near = nearest_medium(settings.data_root, path)
    return f"; {near}" if near else ""


class _Samples:
    """Writes samples in parts; only one part is held in memory."""

    def __init__(self, store: Store, check: Check) -> None:
        self._store, self._check = store, check
        self._part: list[Sample] = []
        self._files: list[FileEntry] = []
        self.places: dict[str, tuple[str, Place]] = {}
        self.count = 0

    def add(self, sample: Sample) -> None:
        self._part.append(sample)
        self.count += 1
        if len(self._part) == SAMPLES_PER_SHARD:
            self._flush()

    def close(self) -> list[FileEntry]:
        if self._part:
            self._flush()
        return self._files

    def _flush(self) -> None:
        name = f"samples/part-{len(self._files):05d}.arrow"
        made = encode_blocks(to_table(self._part, SAMPLE_SCHEMA), batch=SAMPLES_PER_BATCH)
        self._check()
        self._store.replace(name, made.data)
        self._files.append(_entry(name, len(self._part), made.data))
        for number, sample in enumerate(self._part):
            batch, row = divmod(number, SAMPLES_PER_BATCH)
            self.places[sample.id] = ("sample", (name, batch, row, *made.blocks[batch]))
        self._part = []


def _write_index(store: Store, places: dict[str, tuple[str, Place]]) -> FileEntry:
    """One record batch, so that the sorted keys are one piece of mapped memory."""
    keys = sorted(places)
    columns: list[list[Any]] = [keys, [places[k][0] for k in keys]]
    columns += [[places[k][1][i] for k in keys] for i in range(5)]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, INDEX_SCHEMA, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=INDEX_SCHEMA)
    data = encode_batches([batch], INDEX_SCHEMA).data
    store.replace("index.arrow", data)
    return _entry("index.arrow", len(keys), data)


def _entry(name: str, rows: int, data: bytes) -> FileEntry:
    return FileEntry(name, rows, len(data), sha256(data))
