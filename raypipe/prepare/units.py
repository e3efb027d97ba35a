"""Units of work: which media are decoded, stored and committed together, and the plan that lists them.

A plan is written before the first unit is carried out and read again by every continuation, so that the same
input gives the same shards whatever the number of workers, the order in which they finish, or the number of
times they were killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from raypipe.records import MediumKind, fingerprint
from raypipe.store.files import Store
from raypipe.store.shards import Shard, encode_batches, read_block

PLAN = "plan"
IMAGE_WEIGHT, VIDEO_WEIGHT = 1, 16
HEAVY_BYTES = 4 << 20  # every so many bytes of a video weigh one more

PLAN_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("unit", "run", "shard", "key", "row", "kind", "path")],
        ("size", pa.int64()),
        ("stamp", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A medium that samples mention, as its storage describes it. ``row``: the key it is stored under now."""

    key: str
    kind: MediumKind
    path: str
    size: int
    stamp: str
    row: str = ""

    @property
    def weight(self) -> int:
        if self.kind is MediumKind.IMAGE:
            return IMAGE_WEIGHT
        return VIDEO_WEIGHT + max(0, self.size) // HEAVY_BYTES


@dataclass(frozen=True)
class Unit:
    """Media that are committed together. ``run`` and ``shard``: where their rows lie already, if they do."""

    id: str
    media: tuple[Wanted, ...]
    run: str = ""
    shard: str = ""


@dataclass(frozen=True)
class UnitRef:
    """A unit in a plan file: where it lies in there, how many media it has, how heavy it is."""

    id: str
    offset: int
    length: int
    media: int
    weight: int


def pack(media: Iterable[Wanted], videos_per_unit: int, how: str) -> list[Unit]:
    """Media as units of about equal weight.

    Media of one kind and size stay together, since byte-equal copies have the same size and a unit stores
    them once.
    """
    order = sorted(media, key=lambda m: (m.kind, fingerprint(m.size), m.key))
    capacity = videos_per_unit * VIDEO_WEIGHT
    units: list[list[Wanted]] = []
    room = 0
    for _, same in groupby(order, key=lambda m: (m.kind, m.size)):
        group = list(same)
        whole = sum(m.weight for m in group)
        if units and (group[0].kind is not units[-1][0].kind or room < whole <= capacity):
            room = 0
        for medium in group:
            if room < medium.weight or not units:
                units.append([])
                room = capacity
            units[-1].append(medium)
            room -= medium.weight
    return [decoding(unit, how) for unit in units]


def decoding(media: Sequence[Wanted], how: str) -> Unit:
    """A unit that is decoded from the files; its name is made from what it holds."""
    ordered = tuple(sorted(media, key=lambda m: m.key))
    return Unit(fingerprint(how, [m.key for m in ordered]), ordered)


def carrying(media: Sequence[Wanted], how: str, run: str, shard: str) -> Unit:
    """A unit whose rows are taken over from a shard that is there."""
    ordered = tuple(sorted(media, key=lambda m: m.key))
    return Unit(fingerprint(how, "carry", shard, [m.key for m in ordered]), ordered, run, shard)


class Plan:
    """The units of a run as one file: a record batch a unit, read by itself by whoever carries it out."""

    def __init__(self, store: Store, name: str, table: pa.Table) -> None:
        self.store, self.name = store, name
        batches = list(_by_unit(table))
        encoded = encode_batches(batches, PLAN_SCHEMA)
        self.data = encoded.data
        self.units = [
            UnitRef(b.column("unit")[0].as_py(), *block, b.num_rows, _weight(b))
            for b, block in zip(batches, encoded.blocks, strict=True)
        ]

    @classmethod
    def make(cls, store: Store, name: str, units: Sequence[Unit]) -> Plan:
        """Writes a plan; of two writers the first one's counts for both."""
        columns: dict[str, list[object]] = {field: [] for field in PLAN_SCHEMA.names}
        for unit in units:
            for m in unit.media:
                values = (unit.id, unit.run, unit.shard, m.key, m.row, m.kind.value, m.path, m.size, m.stamp)
                for field, value in zip(PLAN_SCHEMA.names, values, strict=True):
                    columns[field].append(value)
        plan = cls(store, name, pa.Table.from_pydict(columns, schema=PLAN_SCHEMA))
        return plan if store.put_new(name, plan.data) else cls.read(store, name)

    @classmethod
    def read(cls, store: Store, name: str) -> Plan:
        return cls(store, name, Shard(store, name, PLAN_SCHEMA).table())


def read_unit(store: Store, plan: str, ref: UnitRef) -> Unit:
    """One unit of a plan by one ranged read."""
    rows = read_block(store.range(plan, ref.offset, ref.length), PLAN_SCHEMA).to_pylist()
    media = tuple(
        Wanted(r["key"], MediumKind(r["kind"]), r["path"], r["size"], r["stamp"], r["row"]) for r in rows
    )
    return Unit(ref.id, media, rows[0]["run"], rows[0]["shard"])


def _by_unit(table: pa.Table) -> Iterable[pa.RecordBatch]:
    rows = table.combine_chunks()
    start = 0
    for _, same in groupby(rows.column("unit").to_pylist()):
        count = sum(1 for _ in same)
        yield from rows.slice(start, count).to_batches()
        start += count


def _weight(batch: pa.RecordBatch) -> int:
    if batch.column("shard")[0].as_py():  # copied, not decoded
        return batch.num_rows
    kinds, sizes = batch.column("kind").to_pylist(), batch.column("size").to_pylist()
    return sum(Wanted("", MediumKind(k), "", s, "").weight for k, s in zip(kinds, sizes, strict=True))
