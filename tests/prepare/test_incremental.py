"""Runs after a first run: only what is new is decoded, what is to go is gone, copies are stored once."""

import os
import shutil
from pathlib import Path

import pytest

from raypipe.errors import BudgetError, RequestError
from raypipe.prepare import work
from raypipe.records import INDEX_SCHEMA, MEDIA_SCHEMA, SAMPLE_SCHEMA, Reason, Rejection
from raypipe.settings import Sampling
from raypipe.store.files import Store
from raypipe.store.run import Run
from raypipe.store.shards import Shard
from raypipe.store.verify import verify
from tests.support.clips import data_root, talk, write_annotations, write_clip, write_image
from tests.support.prepared import NoSandbox, contents, prepared


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """The paths that are decoded."""
    paths: list[str] = []

    class Counting(NoSandbox):
        def decode(self, request):
            paths.append(request.path)
            return super().decode(request)

    monkeypatch.setattr(work, "shared_sandbox", Counting)
    return paths


@pytest.fixture
def root(tmp_path) -> Path:
    data_root(tmp_path / "data")
    return tmp_path / "data"


def records_of(*paths: str) -> list[dict]:
    return [{"image": p, "conversations": talk("<image>\nWhat?", f"A bar in {p}.")} for p in paths]


def index(run: Path) -> dict[str, dict]:
    rows = Shard(Store(str(run)), "index.arrow", INDEX_SCHEMA).table().to_pylist()
    assert [r["key"] for r in rows] == sorted(r["key"] for r in rows)
    return {r["key"]: r for r in rows}


def media(run: Path) -> dict[str, dict]:
    store = Store(str(run))
    rows = [r for n in store.list("media") for r in Shard(store, n, MEDIA_SCHEMA).table().to_pylist()]
    return {r["key"]: r for r in rows}


def samples(run: Path) -> list[dict]:
    store = Store(str(run))
    return [r for n in store.list("samples") for r in Shard(store, n, SAMPLE_SCHEMA).table().to_pylist()]


def proved(run: Path) -> None:
    assert verify(str(run)).damage == []


def test_the_index_leads_to_every_row(root, tmp_path, seen):
    prepared(root, tmp_path / "run")
    places, store = index(tmp_path / "run"), Store(str(tmp_path / "run"))
    rows = media(tmp_path / "run") | {s["id"]: s for s in samples(tmp_path / "run")}
    assert places.keys() == rows.keys()
    for key, place in places.items():
        schema, name = (MEDIA_SCHEMA, "key") if place["what"] == "medium" else (SAMPLE_SCHEMA, "id")
        assert Shard(store, place["shard"], schema).row(place["batch"], place["row"])[name] == key
        assert 0 < place["offset"] < place["offset"] + place["length"] < store.size(place["shard"])


def test_a_grown_dataset_decodes_what_is_new(root, tmp_path, seen):
    prepared(root, tmp_path / "run")
    old = set(Store(str(tmp_path / "run")).list("media"))
    seen.clear()
    write_image(root / "pictures/new.png", 77)
    write_annotations(root, records_of("pictures/new.png"), "more.json")
    again = {"annotations": ["tune.json", "more.json"]}
    with pytest.raises(RequestError, match="differs in: annotations"):
        prepared(root, tmp_path / "run", **again)
    totals = prepared(root, tmp_path / "grown", reuse=[str(tmp_path / "run")], **again)
    assert seen == ["pictures/new.png"]
    assert (totals["ok"], totals["media_ok"]) == (9, 8)
    parents = Run.open(str(tmp_path / "grown")).manifest["parents"]
    assert [p["run"] for p in parents] == [str(tmp_path / "run")]
    proved(tmp_path / "grown")
    # The same folder, where the annotation file itself has grown: the old shards stay as they are.
    seen.clear()
    write_image(root / "pictures/two.png", 78)
    write_annotations(root, records_of("pictures/new.png", "pictures/two.png"), "more.json")
    prepared(root, tmp_path / "grown", **again)
    assert seen == ["pictures/two.png"]
    proved(tmp_path / "grown")
    assert old == set(Store(str(tmp_path / "run")).list("media"))


def test_reused_rows_are_those_of_a_decode(root, tmp_path, seen):
    prepared(root, tmp_path / "one")
    seen.clear()
    prepared(root, tmp_path / "two", reuse=[str(tmp_path / "one")])
    assert seen == []
    assert media(tmp_path / "two") == media(tmp_path / "one")
    assert samples(tmp_path / "two") == samples(tmp_path / "one")
    proved(tmp_path / "two")


def test_frames_made_otherwise_are_not_reused(root, tmp_path, seen):
    prepared(root, tmp_path / "one")
    with pytest.raises(RequestError, match="another sampling"):
        prepared(root, tmp_path / "two", sampling=Sampling(frames=4), reuse=[str(tmp_path / "one")])
    with pytest.raises(RequestError, match="not a run folder"):
        prepared(root, tmp_path / "two", reuse=[str(tmp_path / "no")])
    assert not (tmp_path / "two").exists()


def test_a_removed_medium_is_gone_without_decoding(root, tmp_path, seen):
    prepared(root, tmp_path / "run")
    row = next(r for r in media(tmp_path / "run").values() if r["path"] == "clips/c0.mp4")
    traces = [row["path"].encode(), row["sha256"].encode()]
    assert any(trace in data for data in contents(tmp_path / "run").values() for trace in traces)
    seen.clear()
    (tmp_path / "takedown.txt").write_text("# asked for by its owner\nclips/c0.mp4\n\n")
    totals = prepared(root, tmp_path / "run", remove=str(tmp_path / "takedown.txt"))
    assert seen == []
    assert {k: totals[k] for k in ("inputs", "ok", "removed", "media")} == {
        "inputs": 6,
        "ok": 6,
        "removed": 2,
        "media": 6,
    }
    after = contents(tmp_path / "run")
    assert not [name for name, data in after.items() if any(trace in data for trace in traces)]
    assert row["key"] not in index(tmp_path / "run")
    proved(tmp_path / "run")
    # Run again without the list, it is decoded again; nothing else is.
    assert prepared(root, tmp_path / "run")["ok"] == 8
    assert seen == ["clips/c0.mp4"]
    proved(tmp_path / "run")


def test_byte_equal_copies_are_stored_once(tmp_path, seen):
    root = tmp_path / "data"
    names = [f"p{n}.png" for n in range(3)] + ["copy of p1.png", "sub/p1.png"]
    for number, name in enumerate(names):
        write_image(root / name, 1 if "p1" in name else number)
    write_annotations(root, records_of(*names))
    totals = prepared(root, tmp_path / "run")
    assert (totals["media_ok"], totals["aliases"], totals["ok"]) == (5, 2, 5)
    rows, places = media(tmp_path / "run"), index(tmp_path / "run")
    assert len(rows) == 3
    keys = {s["turns"][1]["text"]: s["media"][0] for s in samples(tmp_path / "run")}
    spots = {tuple(places[keys[f"A bar in {n}."]].values())[2:] for n in names if "p1" in n}
    assert len(spots) == 1
    proved(tmp_path / "run")
    # The copy that is stored goes, the others stay, without decoding.
    stored = next(r["path"] for r in rows.values() if "p1" in r["path"])
    (tmp_path / "list").write_text(stored)
    seen.clear()
    totals = prepared(root, tmp_path / "run", remove=str(tmp_path / "list"))
    assert (totals["media_ok"], totals["aliases"], totals["removed"], seen) == (4, 1, 1, [])
    assert stored not in {r["path"] for r in media(tmp_path / "run").values()}
    proved(tmp_path / "run")


def test_copies_in_different_units_share_a_row(tmp_path, seen):
    root = tmp_path / "data"
    write_image(root / "a.png", 5)
    write_annotations(root, records_of("a.png"))
    prepared(root, tmp_path / "run")
    shutil.copy(root / "a.png", root / "b.png")
    write_annotations(root, records_of("a.png", "b.png"))
    totals = prepared(root, tmp_path / "run")
    assert (totals["media_ok"], totals["aliases"]) == (2, 1)
    places = [p for p in index(tmp_path / "run").values() if p["what"] == "medium"]
    assert places[0]["shard"] == places[1]["shard"]
    proved(tmp_path / "run")


class Flaky(NoSandbox):
    """A decoder that is too slow for one clip, once."""

    slow = True
    asked: list[str] = []  # noqa: RUF012

    def decode(self, request):
        self.asked.append(request.path)
        if request.path == "clips/c1.mp4" and self.slow:
            return Rejection(request.key, "medium", Reason.DECODER_TIMEOUT, "too slow", request.path)
        return super().decode(request)


def test_quarantine_is_kept_until_it_is_retried(root, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "shared_sandbox", Flaky)
    with pytest.raises(BudgetError):
        prepared(root, tmp_path / "run")
    monkeypatch.setattr(Flaky, "slow", False)
    Flaky.asked.clear()
    assert prepared(root, tmp_path / "run", error_budget=1.0)["ok"] == 7
    assert Flaky.asked == []
    assert prepared(root, tmp_path / "run", retry_quarantined=True)["ok"] == 8
    assert Flaky.asked == ["clips/c1.mp4"]
    proved(tmp_path / "run")
    assert prepared(root, tmp_path / "run")["ok"] == 8
    assert Flaky.asked == ["clips/c1.mp4"]


@pytest.mark.parametrize("age", range(1_700_000_000, 1_700_000_004))
def test_a_retry_that_fails_again_can_be_repeated(root, tmp_path, monkeypatch, age):
    for file in root.rglob("*.*"):  # units are named by their media's times: their order is another one
        os.utime(file, (age, age))
    monkeypatch.setattr(work, "shared_sandbox", Flaky)
    monkeypatch.setattr(Flaky, "slow", True)
    more = {"error_budget": 1.0, "retry_quarantined": True}
    Flaky.asked.clear()
    for _ in range(3):
        assert prepared(root, tmp_path / "run", **more)["quarantined"] == 1
        proved(tmp_path / "run")
    assert Flaky.asked.count("clips/c1.mp4") == 3


def test_a_lost_shard_is_made_again_even_if_it_was_carried(root, tmp_path, seen):
    prepared(root, tmp_path / "run")
    (tmp_path / "list").write_text("clips/c0.mp4")
    prepared(root, tmp_path / "run", remove=str(tmp_path / "list"))
    before = contents(tmp_path / "run")
    for shard in Store(str(tmp_path / "run")).list("media"):
        (tmp_path / "run" / shard).unlink()
    seen.clear()
    prepared(root, tmp_path / "run", remove=str(tmp_path / "list"))
    assert len(seen) == 6  # all but the one that is to be gone
    assert contents(tmp_path / "run").keys() == before.keys()
    proved(tmp_path / "run")


def test_a_damaged_shard_is_not_carried(root, tmp_path, seen):
    prepared(root, tmp_path / "one")
    shard = max(Store(str(tmp_path / "one")).list("media"), key=Store(str(tmp_path / "one")).size)
    data = bytearray((tmp_path / "one" / shard).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "one" / shard).write_bytes(data)
    seen.clear()
    prepared(root, tmp_path / "two", reuse=[str(tmp_path / "one")])
    assert 0 < len(seen) < 7
    proved(tmp_path / "two")


def test_a_file_that_changes_after_planning_is_not_taken_for_the_planned_one(root, tmp_path, monkeypatch):
    class Changing(NoSandbox):
        def decode(self, request):
            if request.path == "clips/c1.mp4":
                write_clip(root / "clips/c1.mp4", 5)
                os.utime(root / "clips/c1.mp4", ns=(9, 9))
            return super().decode(request)

    monkeypatch.setattr(work, "shared_sandbox", Changing)
    prepared(root, tmp_path / "run", error_budget=1.0)
    quarantine = Run.open(str(tmp_path / "run")).quarantine()
    assert [(r["path"], r["reason"]) for r in quarantine if r["what"] == "medium"] == [
        ("clips/c1.mp4", "media_changed")
    ]
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)
    assert prepared(root, tmp_path / "run")["ok"] == 8
    proved(tmp_path / "run")
