"""One unit of a prepare run: decode its media in a sandbox, store one shard, commit one record."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from raypipe.media.sandbox import Sandbox
from raypipe.prepare.plan import Unit
from raypipe.records import MEDIA_SCHEMA, Medium, Rejection, to_table
from raypipe.settings import DecodeLimits
from raypipe.store.files import Store
from raypipe.store.run import FileEntry
from raypipe.store.shards import encode_blocks, sha256

UNITS = "units"


def decode_unit(unit: Unit, store: Store, limits: DecodeLimits) -> dict[str, Any]:
    """Decodes a unit and commits it; the record is returned, and is the same when it was there before.

    The shard is put first, under a name with its hash; the record is what makes it count. A kill
    between the two leaves a shard that nothing names, and that the end of the run removes.
    """
    media: list[Medium] = []
    rejections: list[Rejection] = []
    with Sandbox(limits) as sandbox:
        for request in unit.requests:
            result = sandbox.decode(request)
            if isinstance(result, Medium):
                media.append(result)
            else:
                rejections.append(result)
    entry, blocks = _store_shard(unit, store, media) if media else (None, ())
    record = {
        "unit": unit.id,
        "file": asdict(entry) if entry else None,
        "keys": [m.key for m in media],
        "blocks": blocks,
        "frames": sum(len(m.frames) for m in media),
        "source_sha256": {m.key: m.sha256 for m in media},
        "rejections": [r.row() for r in rejections],
    }
    name = record_name(unit.id)
    if not store.put_new(name, (json.dumps(record, sort_keys=True) + "\n").encode()):
        return read_record_of(store, unit.id) or record
    return record


def read_record_of(store: Store, unit: str) -> dict[str, Any] | None:
    """The committed record of a unit; None where it is not what was written."""
    try:
        record = json.loads(store.read(record_name(unit)))
        return record if record["unit"] == unit and "file" in record else None
    except (ValueError, TypeError, KeyError):
        return None


def record_name(unit: str) -> str:
    return f"{UNITS}/{unit}.json"


def _store_shard(
    unit: Unit, store: Store, media: list[Medium]
) -> tuple[FileEntry, tuple[tuple[int, int], ...]]:
    first = unit.requests[0]
    metadata = {
        "raypipe.kind": "media/1",
        "raypipe.rendition": first.rendition.model_dump_json(),
        "raypipe.sampling": first.sampling.model_dump_json(),
    }
    made = encode_blocks(to_table(media, MEDIA_SCHEMA), metadata)
    digest = sha256(made.data)
    name = f"media/{unit.id}-{digest[:16]}.arrow"
    store.put_new(name, made.data)
    return FileEntry(name, len(media), len(made.data), digest), made.blocks
