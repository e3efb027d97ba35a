"""What is there already: the units that a run folder holds, and media that finished runs hand on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from raypipe.errors import RequestError
from raypipe.prepare.units import Unit, Wanted, carrying, pack
from raypipe.records import fingerprint
from raypipe.settings import DatasetSettings, identity
from raypipe.store.files import Store
from raypipe.store.run import Run

UNITS, MEDIA = "units", "media"
READERS = 16  # records are small and, on S3, far away

Record = dict[str, Any]


@dataclass
class Held:
    """The committed units of one run folder: records by unit whose shard is there."""

    store: Store
    records: dict[str, Record] = field(default_factory=dict)

    def rejected(self) -> dict[str, list[str]]:
        """Keys in quarantine, each with the units that say so: one for each try that is still held."""
        found: dict[str, list[str]] = {}
        for unit, record in sorted(self.records.items()):
            for rejection in record["rejections"]:
                found.setdefault(rejection["id"], []).append(unit)
        return found


def record_name(unit: str) -> str:
    return f"{UNITS}/{unit}.json"


def held_by(store: Store) -> Held:
    """Reads all unit records of a folder; torn ones, and those whose shard is gone, do not count."""
    names = store.list(UNITS, ".json")
    shards = set(store.list(MEDIA, ".arrow"))
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda name: read_record(store, PurePosixPath(name).stem), names)
        found = {record["unit"]: record for record in read if record is not None}
    return Held(store, {u: r for u, r in found.items() if not r["file"] or r["file"]["path"] in shards})


def record_bytes(record: Record) -> bytes:
    """A record as it is stored: the same record gives the same bytes."""
    return (json.dumps(record, sort_keys=True) + "\n").encode()


def read_record(store: Store, unit: str) -> Record | None:
    """The committed record of a unit; None where there is none, or not what was written."""
    try:
        record = json.loads(store.read(record_name(unit)))
        return record if record["unit"] == unit and "file" in record and "aliases" in record else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def rows_of(record: Record) -> dict[str, str]:
    """Every medium that a unit stored -> the key of its row (its own, or that of a byte-equal copy)."""
    return {**{key: key for key in record["keys"]}, **record["aliases"]}


def recipe(settings: DatasetSettings) -> dict[str, Any]:
    """What decides the frames of a medium: rows of another run may be taken over where it is the same."""
    return {
        "sampling": settings.sampling.model_dump(mode="json"),
        "rendition": settings.rendition.model_dump(mode="json"),
        "decoder": settings.decoder,
    }


def reusable(settings: DatasetSettings) -> list[Run]:
    """The finished runs whose media may be taken over.

    Raises:
        RequestError: not a finished prepare run, or one whose frames were made otherwise.
    """
    runs = []
    for address in settings.reuse:
        run = Run.open(address, "prepare")
        facts = run.manifest["facts"]
        other = [k for k, v in recipe(settings).items() if facts.get(k) != v]
        if other:
            raise RequestError(
                f"{run.store.root} cannot be reused: it was made with another {', '.join(other)}",
                f"leave it out of reuse=, or prepare with its {other[0]}",
            )
        runs.append(run)
    return runs


def plan_units(
    settings: DatasetSettings, media: Sequence[Wanted], own: Held, others: Iterable[Held]
) -> list[Unit]:
    """The units that make up the result: what is kept, what is taken over, what is decoded."""
    how, wanted = identity(settings), {m.key: m for m in media}
    kept, units = _own(how, wanted, own, retry=settings.retry_quarantined)
    for other in others:
        for record in other.records.values():
            rows = {k: row for k, row in rows_of(record).items() if k in wanted and k not in kept}
            if rows:
                units.append(_carry(how, wanted, rows, other.store.root, record))
                kept |= rows.keys()
    left = [m for m in media if m.key not in kept]
    rejected = own.rejected() if settings.retry_quarantined else {}
    again = rejected.keys() & {m.key for m in left}
    if again:  # under names of their own, for the records of the tries before are there
        how_again = fingerprint(how, sorted({unit for k in again for unit in rejected[k]}))
        units += pack((m for m in left if m.key in again), settings.media_per_shard, how_again)
    return units + pack((m for m in left if m.key not in again), settings.media_per_shard, how)


def _own(how: str, wanted: dict[str, Wanted], own: Held, *, retry: bool) -> tuple[set[str], list[Unit]]:
    """Units of this folder that stay, or whose wanted rows are carried into a new one."""
    kept: set[str] = set()
    units: list[Unit] = []

    def free(key: str) -> bool:
        return key in wanted and key not in kept

    for unit, record in sorted(own.records.items()):
        rows = {k: row for k, row in rows_of(record).items() if free(k)}
        bad = set() if retry else {r["id"] for r in record["rejections"] if free(r["id"])}
        if all(map(free, record["keys"])):
            if rows or bad:
                units.append(Unit(unit, tuple(wanted[k] for k in sorted({*rows, *bad}))))
            kept |= rows.keys() | bad
        elif rows:  # some of its rows are not wanted any more: they must not stay in the shard
            units.append(_carry(how, wanted, rows, own.store.root, record))
            kept |= rows.keys()
    return kept, units


def _carry(how: str, wanted: dict[str, Wanted], rows: dict[str, str], run: str, record: Record) -> Unit:
    media = [replace(wanted[key], row=row) for key, row in rows.items()]
    return carrying(media, how, run, record["file"]["path"])
