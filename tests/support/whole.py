"""A data root whose pictures tell who they are, and a proof of a run besides that of verify."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa

from raypipe.prepare.read import Annotations
from raypipe.records import Clip
from raypipe.settings import DatasetSettings
from raypipe.store.files import Store
from raypipe.store.index import MediaReader
from raypipe.store.verify import verify
from tests.support.clips import number_of, talk, write_annotations, write_image

MORE = {"error_budget": 1.0, "media_per_shard": 1}  # which is sixteen images


def numbered(path: str, number: int) -> dict:
    return {"image": path, "conversations": talk("<image>\nWhich?", f"number {number}")}


def write_numbered(root: Path, images: dict[str, int], *others: dict, times: int = 1) -> Path:
    """Draws images that show their numbers, and annotations that say them; other records besides."""
    for name, number in images.items():
        write_image(root / name, number, (80, 32))
        os.utime(root / name, (1_700_000_000, 1_700_000_000))  # units are named by their media's times
    write_annotations(root, [numbered(n, k) for n, k in images.items() for _ in range(times)] + list(others))
    return root


def small_root(root: Path) -> Path:
    """Two images, a copy, one that is missing, a record without media and one that is none."""
    write_numbered(root, {"a.png": 11, "b.png": 22})
    copy = root / "sub/a.png"
    copy.parent.mkdir()
    shutil.copy2(root / "a.png", copy)
    records = [numbered(n, k) for n, k in (("a.png", 11), ("b.png", 22), ("sub/a.png", 11), ("no.png", 0))]
    write_annotations(root, [*records, {"conversations": talk("Hello?", "number -1")}, {"conversations": []}])
    return root


def expected_ids(settings: DatasetSettings, removed: frozenset[str] = frozenset()) -> list[str]:
    """The ids of all records of the annotations that are not to be left out."""
    kept = []
    for item in Annotations(settings):
        if not (isinstance(item, Clip) and any(ref.path in removed for ref in item.media)):
            kept.append(item.id)
    return sorted(kept)


def table(store: Store, name: str) -> list[dict]:
    return pa.ipc.open_file(pa.py_buffer(store.read(name))).read_all().to_pylist()


def proved(settings: DatasetSettings, removed: frozenset[str] = frozenset()) -> None:
    """Every record in exactly one place, every sample's picture the right one, every hash right."""
    assert verify(settings.out).damage == []
    store = Store(settings.out)
    samples = [row for name in store.list("samples") for row in table(store, name)]
    quarantine = [json.loads(line) for line in store.read("quarantine.jsonl").decode().split("\n") if line]
    places = [s["id"] for s in samples] + [q["id"] for q in quarantine if q["what"] == "sample"]
    assert sorted(places) == expected_ids(settings, removed), "lost or doubled"
    keys = [r["key"] for r in table(store, "index.arrow")]
    assert keys == sorted(set(keys)), "the index is not sorted"
    reader = MediaReader(store)
    for sample in samples:
        number = int(sample["turns"][-1]["text"].removeprefix("number "))
        shown = [number_of(frame) for key in sample["media"] for frame in reader.frames(key)]
        assert shown == [number] * (number >= 0), f"{sample['id']} shows {shown}"
    rows = [r["key"] for name in store.list("media") for r in table(store, name)]
    assert max(Counter(rows).values(), default=1) == 1, "a row is there twice"
    committed_units(store)


def committed_units(store: Store) -> int:
    """How many units are committed; each must be readable, and its shard there and whole."""
    names = store.list("units")
    for name in names:
        file = json.loads(store.read(name))["file"]
        if file:
            assert hashlib.sha256(store.read(file["path"])).hexdigest() == file["sha256"], name
    return len(names)


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(n for n in {*one, *other} if one.get(n) != other.get(n))
