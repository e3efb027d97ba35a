"""verify of a prepare run: whatever is changed is found, the index is followed, and nothing crashes."""

import json
import os
import random
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.records import INDEX_SCHEMA, MEDIA_SCHEMA
from raypipe.store.files import Store
from raypipe.store.shards import encode, encode_blocks
from raypipe.store.verify import verify
from tests.support.prepared import contents
from tests.support.tampered import damage, rewritten


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def rows(run: Path, name: str) -> pa.Table:
    return pa.ipc.open_file(pa.BufferReader((run / name).read_bytes())).read_all()


def with_index(run: Path, change) -> None:
    """The run with other rows in its index."""
    listed = rows(run, "index.arrow").to_pylist()
    listed = change(listed) or listed
    table = pa.Table.from_pylist(listed, schema=INDEX_SCHEMA)

    def counted(manifest):
        next(f for f in manifest["files"] if f["path"] == "index.arrow")["rows"] = len(listed)

    rewritten(run, {"index.arrow": encode(table, batch=1024)}, counted)


def test_any_flipped_byte_is_found(run):
    """Bytes drawn from the whole run, each bit of a byte alike; settings.json has a hash of its own."""
    files, chance = {n: d for n, d in contents(run).items() if d}, random.Random(15)
    names = list(files)
    missed = []
    for number in range(400):
        name = names[number % len(names)]
        data = bytearray(files[name])
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        data[place] ^= bit
        (run / name).write_bytes(data)
        if not damage(run):
            missed.append((name, place, bit))
        (run / name).write_bytes(files[name])
    assert missed == []
    assert damage(run) == []


def test_any_truncation_is_found(run):
    files, chance = {n: d for n, d in contents(run).items() if d}, random.Random(16)
    names = list(files)
    missed = []
    for number in range(200):
        name = names[number % len(names)]
        end = chance.choice([0, len(files[name]) - 1, chance.randrange(len(files[name]))])
        (run / name).write_bytes(files[name][:end])
        if not damage(run):
            missed.append((name, end))
        (run / name).write_bytes(files[name])
    assert missed == []


def test_any_two_swapped_files_are_found(run):
    files = contents(run)
    pairs = [(a, b) for a, b in combinations(files, 2) if files[a] != files[b]]
    assert len(pairs) > 30
    for one, two in pairs:
        (run / one).write_bytes(files[two])
        (run / two).write_bytes(files[one])
        assert damage(run), (one, two)
        (run / one).write_bytes(files[one])
        (run / two).write_bytes(files[two])
    assert damage(run) == []


def test_damaged_shards_that_pass_their_hash_do_not_crash_the_reader(run):
    """Flipped bytes in shards, vouched for: an Arrow file of wrong offsets may kill a careless reader."""
    chance = random.Random(17)
    name = next(n for n in contents(run) if n.startswith("media/"))
    whole = (run / name).read_bytes()
    found = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(3):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        rewritten(run, {name: bytes(data)})
        found += bool(damage(run))
    assert found > 100


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i.reverse(), "not sorted by key"),
        (lambda i: i[1].update(key=i[0]["key"]), "two places"),
        (lambda i: i[0].update(offset=i[0]["offset"] + 8), "does not lead to a row"),
        (lambda i: i[0].update(length=i[0]["length"] // 2), "does not lead to a row"),
        (lambda i: i[0].update(offset=-8), "does not lead to a row"),
        (lambda i: i[0].update(offset=1 << 50), "does not lead to a row"),
        (lambda i: i[0].update(batch=99), "does not lead to a row"),
        (lambda i: i[0].update(row=5), "does not lead to a row"),
        (lambda i: i[0].update(shard="media/no.arrow"), "which the manifest does not name"),
        (lambda i: i[0].update(shard="index.arrow"), "which the manifest does not name"),
        (lambda i: i.pop(0), "is not in the index"),
        (lambda i: i.pop(0), "media_ok is 7, but there are 6"),
        (lambda i: i[0].update(key="0" * 24), "leads to another medium"),
    ],
)
def test_a_wrong_index_is_found(run, change, said):
    def changed(index):
        media = [i for i in index if i["what"] == "medium"]
        samples = [i for i in index if i["what"] == "sample"]
        change(media)
        made = [*media, *samples]
        return made if said == "not sorted by key" else sorted(made, key=lambda i: i["key"])

    with_index(run, changed)
    assert any(said in line for line in damage(run)), damage(run)


def test_two_entries_that_change_places_are_found(run):
    def swapped(index):
        # Units differ in size, since media keys hold times of change: one shard with two rows is enough.
        media = [i for i in index if i["what"] == "medium"]
        one = next(i for i in media if sum(j["shard"] == i["shard"] for j in media) > 1)
        two = next(i for i in media if i["shard"] == one["shard"] and i["batch"] != one["batch"])
        for name in ("batch", "row", "offset", "length"):
            one[name], two[name] = two[name], one[name]

    with_index(run, swapped)
    assert sum("leads to another medium" in line for line in damage(run)) == 2


def test_byte_equal_copies_may_share_a_row(run):
    """An alias: its key leads to the row of another key whose source has the same hash."""
    unit = next(n for n in sorted(contents(run)) if n.startswith("units/"))
    record = json.loads((run / unit).read_text())
    shard = next(i for i in rows(run, "index.arrow").to_pylist() if i["key"] == record["keys"][0])

    def add(index):
        return sorted([*index, {**shard, "key": "f" * 24}], key=lambda i: i["key"])

    def recorded(digest):
        record["source_sha256"]["f" * 24] = digest
        return {unit: json.dumps(record).encode()}

    def counted(manifest):
        manifest["totals"].update(media=8, media_ok=8)

    with_index(run, add)
    rewritten(run, recorded(record["source_sha256"][shard["key"]]), counted)
    assert damage(run) == []
    rewritten(run, recorded("0" * 64), counted)
    assert ["leads to another medium" in line for line in damage(run)] == [True]


def test_sample_entries_are_followed(run):
    def swapped(index):
        one, two = [i for i in index if i["what"] == "sample"][:2]
        one["row"], two["row"] = two["row"], one["row"]

    with_index(run, swapped)
    assert sum("leads to another sample" in line for line in damage(run)) == 2


def test_a_sample_without_an_entry_is_found(run):
    with_index(run, lambda index: [i for i in index if i["what"] == "medium"])
    assert any("ok is 8, but there are 0" in line for line in damage(run))


def test_a_row_that_changed_its_place_is_found(run):
    """The shard was written again in another order; index and unit are of the old one."""
    name = next(n for n in contents(run) if n.startswith("media/") and rows(run, n).num_rows > 1)
    table = pa.Table.from_pylist(rows(run, name).to_pylist()[::-1], schema=MEDIA_SCHEMA)
    rewritten(run, {name: encode_blocks(table).data})
    found = damage(run)
    assert any(line.startswith("index.arrow") for line in found)
    assert any(line.startswith("units/") for line in found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(unit="x"), "is the record of unit x"),
        (lambda r: r["file"].update(rows=9), "is another file in the manifest"),
        (lambda r: r["file"].update(path="media/no"), "is another file in the manifest"),
        (lambda r: r["keys"].reverse(), "other media than in"),
        (lambda r: r.clear(), "no unit's record"),
    ],
)
def test_a_wrong_unit_is_found(run, change, said):
    for name in (n for n in contents(run) if n.startswith("units/")):
        record = json.loads((run / name).read_text())
        if record["file"] and len(record["keys"]) > 1:
            change(record)
            break
    rewritten(run, {name: json.dumps(record).encode()})
    assert any(said in line for line in damage(run)), damage(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("files"),
        lambda m: m.update(files=[{"path": 3}]),
        lambda m: m.update(totals={}),
        lambda m: m["files"][0].update(path="../manifest.json"),
        lambda m: m["files"][0].update(path="/etc/passwd"),
        lambda m: m.update(inputs=None),
        lambda m: m["files"].remove(next(f for f in m["files"] if f["path"] == "index.arrow")),
    ],
)
def test_a_manifest_of_another_shape_is_damage(run, change):
    rewritten(run, {}, change)
    assert damage(run)


def test_removed_inputs_add_up(run):
    rewritten(run, {}, lambda m: m["totals"].update(removed=2))
    assert damage(run) == []
    rewritten(run, {}, lambda m: m["totals"].update(inputs=9))
    assert any("do not add up" in line for line in damage(run))


def test_the_folder_of_drivers_is_not_data(run):
    from raypipe.store.lease import Lease

    with Lease.take(Store(str(run))) as lease:
        lease.seal()
        lease.finish()
    assert (run / "driver").is_dir()
    assert damage(run) == []


def test_runs_on_s3_are_verified_alike(whole, s3_root):
    store = Store(s3_root)
    files = contents(whole)
    for name, data in files.items():
        store.replace(name, data)
    there = verify(s3_root)
    here = verify(str(whole))
    assert there.damage == []
    assert (there.files, there.rows, there.inputs) == (here.files, here.rows, here.inputs)
    for name in {n.split("/")[0]: n for n in files}.values():
        data = files[name]
        store.replace(name, data[:-1] + bytes([data[-1] ^ 1]) if data else b"\n")
        assert verify(s3_root).damage, name
        store.replace(name, data)
    store.delete("index.arrow")
    assert verify(s3_root).damage == ["index.arrow: missing"]
    store.replace("index.arrow", files["index.arrow"])
    store.replace("media/extra.arrow", b"1")
    assert verify(s3_root).damage == ["media/extra.arrow: not named in the manifest"]
