"""One unit of a prepare run: its rows are decoded in a sandbox or taken over, stored as one shard, and
committed by one record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from raypipe.errors import DamageError
from raypipe.media.decode import DecodeRequest
from raypipe.media.sandbox import shared_sandbox
from raypipe.prepare.held import MEDIA, read_record, record_bytes, record_name
from raypipe.prepare.units import Unit, UnitRef, Wanted, read_unit
from raypipe.records import MEDIA_SCHEMA, Medium, MediumKind, Rejection, media_of, to_table
from raypipe.settings import DatasetSettings
from raypipe.store.files import Store
from raypipe.store.run import FileEntry
from raypipe.store.shards import Shard, encode_blocks, sha256

# Nothing is padded or cropped here: a stage's image_aspect does that when it makes pixels.
PICTURE = {"mode": "RGB", "aspect": "kept", "exif_orientation": "ignored", "rotation": "upright"}


@dataclass(frozen=True)
class Work:
    """What carries out the units of a plan, wherever it runs."""

    store: Store
    plan: str
    settings: DatasetSettings

    def __call__(self, ref: UnitRef) -> dict[str, Any]:
        return carry_out(read_unit(self.store, self.plan, ref), self.store, self.settings)


def carry_out(unit: Unit, store: Store, settings: DatasetSettings) -> dict[str, Any]:
    """Makes a unit's shard and commits its record; the record is returned, and is the same when it was there.

    The shard is put first, under a name with its hash; the record is what makes it count. A kill between the
    two leaves a shard that nothing names, and that the end of the run removes.
    """
    done = read_record(store, unit.id)
    if done is not None and (not done["file"] or store.exists(done["file"]["path"])):
        return done
    if done is not None or store.exists(record_name(unit.id)):  # torn, or its shard is gone
        store.delete(record_name(unit.id))
    rows = _carried(unit)
    media, rejections = (rows, []) if rows is not None else _decoded(unit, settings)
    stored, aliases = merge_copies(media)
    entry, blocks = _store_shard(unit, store, settings, stored) if stored else (None, ())
    record = {
        "unit": unit.id,
        "file": asdict(entry) if entry else None,
        "keys": [m.key for m in stored],
        "blocks": [list(block) for block in blocks],
        "aliases": aliases,
        "frames": sum(len(m.frames) for m in stored),
        "source_bytes": sum(max(0, m.size) for m in unit.media),
        "source_sha256": {m.key: m.sha256 for m in media},
        "rejections": [r.row() for r in rejections],
    }
    if not store.put_new(record_name(unit.id), record_bytes(record)):
        return read_record(store, unit.id) or record
    return record


def merge_copies(media: Sequence[Medium]) -> tuple[list[Medium], dict[str, str]]:
    """The rows to store, and for each medium whose file equals an earlier one byte by byte that one's key."""
    stored: dict[tuple[MediumKind, str], Medium] = {}
    aliases: dict[str, str] = {}
    for medium in sorted(media, key=lambda m: m.key):
        first = stored.setdefault((medium.kind, medium.sha256), medium)
        if first is not medium:
            aliases[medium.key] = first.key
    return list(stored.values()), aliases


def request_of(medium: Wanted, settings: DatasetSettings) -> DecodeRequest:
    return DecodeRequest(
        key=medium.key,
        kind=medium.kind,
        root=settings.data_root,
        path=medium.path,
        sampling=settings.sampling,
        rendition=settings.rendition,
        decoder=settings.decoder,
        max_pixels=settings.limits.max_pixels,
        size=medium.size,
        stamp=medium.stamp,
    )


def _decoded(unit: Unit, settings: DatasetSettings) -> tuple[list[Medium], list[Rejection]]:
    media: list[Medium] = []
    rejections: list[Rejection] = []
    sandbox = shared_sandbox(settings.limits)
    for result in sandbox.decode_all([request_of(m, settings) for m in unit.media]):
        if isinstance(result, Medium):
            media.append(result)
        else:
            rejections.append(result)
    return media, rejections


def _carried(unit: Unit) -> list[Medium] | None:
    """A unit's rows from the shard that holds them; None where they have to be decoded after all."""
    if not unit.shard:
        return None
    source = Store(unit.run)
    try:
        table = Shard(source, unit.shard, MEDIA_SCHEMA).table()
    except DamageError:
        return None
    if source.sha256(unit.shard)[:16] != unit.shard.rpartition("-")[2].removesuffix(".arrow"):
        return None
    rows = {m.key: m for m in media_of(table.to_pylist())}
    if any(m.row not in rows for m in unit.media):
        return None
    return [replace(rows[m.row], key=m.key, path=m.path) for m in unit.media]


def _store_shard(
    unit: Unit, store: Store, settings: DatasetSettings, media: list[Medium]
) -> tuple[FileEntry, tuple[tuple[int, int], ...]]:
    metadata = {
        "raypipe.kind": "media/1",
        "raypipe.rendition": settings.rendition.model_dump_json(),
        "raypipe.sampling": settings.sampling.model_dump_json(),
        "raypipe.picture": json.dumps(PICTURE, sort_keys=True),
    }
    made = encode_blocks(to_table(media, MEDIA_SCHEMA), metadata)
    digest = sha256(made.data)
    name = f"{MEDIA}/{unit.id}-{digest[:16]}.arrow"
    store.put_new(name, made.data)
    return FileEntry(name, len(media), len(made.data), digest), made.blocks
