"""Whole prepare runs: what is stored, what is in quarantine, what a second run does again."""

import json
from pathlib import Path

import pytest

from raypipe.errors import BudgetError, RequestError
from raypipe.prepare import work
from raypipe.prepare.run import prepare
from raypipe.records import MEDIA_SCHEMA, SAMPLE_SCHEMA, Reason, samples_of
from raypipe.settings import Sampling
from raypipe.store.files import Store
from raypipe.store.run import Run
from raypipe.store.shards import Shard, metadata_of
from raypipe.store.verify import verify
from tests.support import reference_data
from tests.support.clips import data_root, number_of, talk, write_annotations, write_clip
from tests.support.prepared import NoSandbox, contents, dataset, one_by_one, prepared


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch):
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)


@pytest.fixture
def root(tmp_path) -> Path:
    data_root(tmp_path / "data")
    return tmp_path / "data"


def media_rows(out: Path) -> list[dict]:
    store = Store(str(out))
    return [r for n in store.list("media") for r in Shard(store, n, MEDIA_SCHEMA).table().to_pylist()]


def decodes(monkeypatch) -> list[str]:
    """The paths that are decoded from here on."""
    seen: list[str] = []

    class Counting(NoSandbox):
        def decode(self, request):
            seen.append(request.path)
            return super().decode(request)

    monkeypatch.setattr(work, "shared_sandbox", Counting)
    return seen


def test_every_sample_finds_its_frames(root, tmp_path, monkeypatch):
    seen = decodes(monkeypatch)
    totals = prepared(root, tmp_path / "run")
    assert {k: totals[k] for k in ("inputs", "ok", "quarantined", "media", "media_ok")} == {
        "inputs": 8,
        "ok": 8,
        "quarantined": 0,
        "media": 7,
        "media_ok": 7,
    }
    assert len(seen) == len(set(seen)) == 7  # decoded once, however many samples talk about it
    rows = {r["key"]: r for r in media_rows(tmp_path / "run")}
    assert totals["frames"] == sum(len(r["frames"]) for r in rows.values()) == 4 * 8 + 3
    samples = Shard(Store(str(tmp_path / "run")), "samples/part-00000.arrow", SAMPLE_SCHEMA).table()
    for sample in samples_of(samples.to_pylist()):
        for key in sample.media:
            assert [number_of(f) for f in rows[key]["frames"]] == (
                rows[key]["frame_index"] if rows[key]["kind"] == "video" else [int(rows[key]["path"][-5])]
            )
    shard = next(n for n in Store(str(tmp_path / "run")).list("media"))
    facts = metadata_of(Shard(Store(str(tmp_path / "run")), shard, MEDIA_SCHEMA).table())
    assert json.loads(facts["raypipe.rendition"])["codec"] == "lossless"
    assert verify(str(tmp_path / "run")).damage == []


def test_a_second_run_decodes_nothing(root, tmp_path, monkeypatch):
    prepared(root, tmp_path / "run")
    before, seen = contents(tmp_path / "run"), decodes(monkeypatch)
    prepared(root, tmp_path / "run")
    assert seen == []
    assert contents(tmp_path / "run") == before


def test_over_the_error_budget_the_good_is_committed(root, tmp_path):
    (root / "clips/c0.mp4").unlink()
    (root / "clips/c1.mp4").write_bytes(b"no video")
    with pytest.raises(BudgetError) as fault:
        prepared(root, tmp_path / "run", error_budget=0.3)
    assert fault.value.exit_code == 3
    assert "3 of 8 records" in fault.value.message
    run = Run.open(str(tmp_path / "run"), "prepare")
    quarantine = run.quarantine()
    assert sorted((r["what"], r["reason"], r["path"]) for r in quarantine) == [
        ("medium", "media_missing", "clips/c0.mp4"),
        ("medium", "media_unreadable", "clips/c1.mp4"),
        ("sample", "media_missing", "clips/c0.mp4"),
        ("sample", "media_missing", "clips/c0.mp4"),
        ("sample", "media_unreadable", "clips/c1.mp4"),
    ]
    assert verify(str(tmp_path / "run")).damage == []
    assert prepared(root, tmp_path / "run", error_budget=0.4)["ok"] == 5


def test_a_repaired_file_completes_the_set(root, tmp_path, monkeypatch):
    good = (root / "clips/c1.mp4").read_bytes()
    (root / "clips/c1.mp4").write_bytes(good[:300])
    assert prepared(root, tmp_path / "run", error_budget=1.0)["ok"] == 7
    (root / "clips/c1.mp4").write_bytes(good)
    assert prepared(root, tmp_path / "run", error_budget=1.0)["ok"] == 8
    proof = verify(str(tmp_path / "run"))
    assert (proof.damage, proof.inputs) == ([], 8)


def test_a_file_that_comes_and_goes_never_leaves_a_hole(root, tmp_path):
    """An old unit's record must not bring back a shard that was swept."""
    import os

    file = root / "clips/c1.mp4"
    good = file.read_bytes()
    os.utime(file, ns=(5, 5))
    prepared(root, tmp_path / "run")
    file.unlink()
    prepared(root, tmp_path / "run", error_budget=1.0)
    file.write_bytes(good)
    os.utime(file, ns=(5, 5))
    assert prepared(root, tmp_path / "run")["ok"] == 8
    assert verify(str(tmp_path / "run")).damage == []


def test_a_torn_unit_record_is_done_again(root, tmp_path):
    prepared(root, tmp_path / "run")
    before = contents(tmp_path / "run")
    unit = next(n for n in before if n.startswith("units/"))
    (tmp_path / "run" / unit).write_bytes(b'{"unit": ')
    prepared(root, tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_the_order_of_work_changes_nothing(root, tmp_path):
    def backwards(units, work):
        return map(work, reversed(units))

    made = []
    for execute in (one_by_one, backwards, _two_processes):
        prepare(dataset(root, tmp_path / "run"), execute=execute)
        made.append(contents(tmp_path / "run"))
        import shutil

        shutil.rmtree(tmp_path / "run")
    assert made[0] == made[1] == made[2]


def _two_processes(units, work):
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(work, units, chunksize=1)


def test_a_wrong_request_leaves_no_folder_behind(tmp_path):
    for wrong in ({"data_root": str(tmp_path / "no")}, {"annotations": ["no.json"]}):
        with pytest.raises(RequestError):
            prepared(tmp_path, tmp_path / "run", **wrong)
        assert not (tmp_path / "run").exists()


def test_other_settings_need_another_folder(root, tmp_path):
    prepared(root, tmp_path / "run")
    with pytest.raises(RequestError, match="differs in: sampling"):
        prepared(root, tmp_path / "run", sampling=Sampling(frames=4))


def test_hostile_paths_are_only_rejections(tmp_path):
    root = tmp_path / "data"
    write_clip(tmp_path / "secret.mp4", 3)
    paths = ["../secret.mp4", str(tmp_path / "secret.mp4"), "a\0b", "x" * 300, "http://x/y.mp4", "."]
    write_annotations(root, [{"video": p, "conversations": talk("<video>q", "a")} for p in paths])
    totals = prepared(root, tmp_path / "run", error_budget=1.0)
    assert (totals["ok"], totals["quarantined"]) == (0, 6)
    reasons = {
        r["path"]: r["reason"] for r in Run.open(str(tmp_path / "run")).quarantine() if r["what"] == "medium"
    }
    assert [reasons[p] for p in paths] == [
        *[Reason.MEDIA_OUTSIDE_ROOT] * 3,
        *[Reason.MEDIA_UNREADABLE, Reason.MEDIA_OUTSIDE_ROOT, Reason.MEDIA_UNREADABLE],
    ]
    assert verify(str(tmp_path / "run")).damage == []


def test_the_real_tree(tmp_path):
    real = reference_data("real") / "DATA_ROOT"
    names = ["pt_json/llava_image_.json", "pt_json/valley_.json"]
    names += [f"ft_json/{n}.json" for n in ("llava_image_tune_", "videochatgpt_tune_", "nlp_tune")]
    totals = prepared(real, tmp_path / "run", annotations=names, error_budget=0.1)
    assert (totals["inputs"], totals["ok"], totals["quarantined"]) == (12, 11, 1)
    rejected = Run.open(str(tmp_path / "run")).quarantine()
    assert {(r["reason"], r["path"]) for r in rejected} == {("media_missing", "valley/missing_clip.mp4")}
    assert verify(str(tmp_path / "run")).damage == []
