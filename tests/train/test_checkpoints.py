"""Checkpoints: whole or passed over; the newest whole one is taken."""

import json
import logging
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import RequestError, ServiceError
from raypipe.store.files import Store
from raypipe.train import checkpoints
from raypipe.train.checkpoints import Checkpoints, records
from raypipe.train.fragments import MASTER
from tests.support.kills import forked, points
from tests.train.saved import (
    alone,
    content,
    extra,
    file_of,
    flip,
    held,
    newest_step,
    put,
    record_of,
    saved_by,
    together,
    whole,
)

STEPS = (10, 20, 30)


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(str(tmp_path / "run"))
    for step in STEPS:
        put(store, step)
    return store


def test_the_newest_is_taken(store, tmp_path):
    assert newest_step(alone(store), store) == 30
    assert alone(Store(str(tmp_path / "nothing"))).newest() is None


@pytest.mark.parametrize("where", ["file", "record"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone", "empty"])
def test_a_damaged_one_is_passed_over_for_the_one_before(store, where, how, caplog):
    file = file_of(store, 30) if where == "file" else record_of(store, 30)
    if how == "flip":
        flip(file)
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] if how == "cut" else b"")
    with caplog.at_level(logging.WARNING):
        assert newest_step(alone(store), store) == 20
    assert ("is damaged" in caplog.text) == ((where, how) != ("record", "gone"))


@given(at=st.floats(0, 1))
@settings(max_examples=60)
def test_a_record_with_any_flipped_bit_is_never_taken_for_whole(tmp_path_factory, at):
    store = Store(str(tmp_path_factory.mktemp("flip")))
    put(store, 10)
    put(store, 20)
    flip(record_of(store, 20), at)
    assert newest_step(alone(store), store) == 10


def test_all_damaged_is_a_start_from_the_beginning(store, caplog):
    for step in STEPS:
        flip(file_of(store, step))
    assert alone(store).newest() is None
    assert caplog.text.count("is damaged") == len(STEPS)


def test_a_record_of_another_format_is_refused(store):
    old = {"step": 40, "world": 1, "files": {"state/mp_rank_00_model_states.pt": {}}}
    record_of(store, 40).write_text(json.dumps(old))
    with pytest.raises(RequestError, match=r"step-00000040\.json is no checkpoint of this raypipe"):
        alone(store).newest()


def test_only_so_many_are_kept_and_orphans_go(store):
    stray = ["step-00000025-deadbeef/rank-00000.safetensors", "step-00000099-deadbeef/rank-00001.json"]
    for name in stray:
        store.replace(f"checkpoints/{name}", b"of a start that died")
    store.replace("ledger/00000000-00000025-deadbeef.arrow", b"of the same")
    put(store, 40, keep=2)
    nested = [n for n in store.list("checkpoints") if n.count("/") > 1]
    folders = {n.split("/")[1].rpartition("-")[0] for n in nested}
    assert folders == {"step-00000030", "step-00000040"}
    assert [r["step"] for r in records(store)] == [30, 40]
    assert store.list("ledger") == []
    assert newest_step(alone(store), store) == 40


def test_what_is_asked_for_stays_beside_the_newest(store):
    asked = []

    def protect(steps):
        asked.append(list(steps))
        return {10, 77}

    put(store, 40, keep=1, protect=protect)
    assert asked == [[10, 20, 30, 40]]
    assert [r["step"] for r in records(store)] == [10, 40]
    assert torch.equal(content(store, records(store)[0])[MASTER, "b.bias"], whole(10)[MASTER, "b.bias"])


def test_what_another_rank_of_this_start_is_writing_stays(tmp_path):
    store = Store(str(tmp_path / "run"))
    mine = alone(store, keep=1)
    ahead = f"checkpoints/step-00000020-{mine.attempt}/rank-00001.safetensors"
    store.replace(ahead, b"being written")
    mine.commit(held(10, 0, 1), 10, extra(10))
    assert store.exists(ahead)


def test_a_damaged_one_does_not_push_out_a_whole_one(store):
    flip(file_of(store, 30))
    mine = alone(store, keep=2)
    assert newest_step(mine, store) == 20
    mine.commit(held(30, 0, 1), 30, extra(30))
    mine.commit(held(40, 0, 1), 40, extra(40))
    assert [r["step"] for r in records(store)] == [30, 40]
    assert newest_step(alone(store), store) == 40
    flip(file_of(store, 40))
    assert newest_step(alone(store), store) == 30


def test_files_without_a_record_do_not_count(store):
    """A kill after the files and before the record."""
    shutil.copytree(file_of(store, 30).parent, Path(store.root) / "checkpoints/step-00000040-deadbeef")
    assert newest_step(alone(store), store) == 30


def test_training_goes_on_while_it_is_written(tmp_path, monkeypatch):
    store, go, begun = Store(str(tmp_path / "run")), threading.Event(), threading.Event()
    real = Store.replace

    def slow(self, name, data):
        begun.set()
        assert go.wait(60)
        real(self, name, data)

    monkeypatch.setattr(Store, "replace", slow)
    mine = alone(store, asynchronous=True)
    tensors = held(10, 0, 1)
    mine.commit(tensors, 10, extra(10))
    assert begun.wait(60)
    for tensor in tensors.values():
        tensor.zero_()  # the next step; what is written is what was
    mine.check()
    assert records(store) == []
    go.set()
    mine.wait()
    assert newest_step(alone(store), store) == 10


def test_an_error_of_the_run_does_not_cut_a_write_off(tmp_path, monkeypatch):
    store, real, begun = Store(str(tmp_path / "run")), Store.replace, threading.Event()
    go = threading.Timer(0.3, begun.set)

    def slow(self, name, data):
        begun.wait(60)
        real(self, name, data)

    monkeypatch.setattr(Store, "replace", slow)
    mine = alone(store, asynchronous=True)
    mine.commit(held(10, 0, 1), 10, extra(10))
    go.start()
    mine.close()
    assert newest_step(alone(store), store) == 10


def test_what_other_ranks_never_write_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "GRACE_S", 0.05)
    store = Store(str(tmp_path / "run"))
    mine = Checkpoints(store, 0, 2, 2, lambda value: [value, None], asynchronous=True)
    mine.commit(held(10, 0, 2), 10, extra(10))
    mine.close()
    mine.wait()
    assert store.list("checkpoints", ".safetensors") != []
    assert records(store) == []


def test_a_fault_in_the_background_comes_out_at_the_next_step(tmp_path, monkeypatch):
    def refused(self, name, data):
        raise ServiceError("no space left", "free some")

    monkeypatch.setattr(Store, "replace", refused)
    mine = alone(Store(str(tmp_path / "run")), asynchronous=True)
    mine.commit(held(10, 0, 1), 10, extra(10))
    mine._thread.join()
    with pytest.raises(ServiceError, match="no space left"):
        mine.check()
    mine.check()  # said once
    monkeypatch.undo()
    mine.commit(held(20, 0, 1), 20, extra(20))
    mine.wait()
    assert newest_step(alone(mine._store), mine._store) == 20


@pytest.mark.parametrize("harm", ["kill", "power"])
def test_killed_at_any_write_the_newest_is_the_one_before_or_this(tmp_path, harm):
    root = tmp_path / "run"
    put(Store(str(root)), 10)
    kept = tmp_path / "kept"
    shutil.copytree(root, kept)

    def act() -> None:
        put(Store(str(root)), 20, keep=1, asynchronous=True)

    code, operations = forked(act)
    assert code == 0
    assert len(operations) > 15
    ends = set()
    for at in points(len(operations), 12, {len(operations) // 2}):
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        code, _ = forked(act, at, harm)
        assert code == -9, at
        store = Store(str(root))
        ends.add(newest_step(alone(store), store))
        put(store, 20, keep=1)  # the next start ends what was begun
        assert newest_step(alone(store), store) == 20
        named = {r["folder"] for r in records(store)}
        assert {n.rpartition("/")[0] for n in store.list("checkpoints") if n.count("/") > 1} == named
    assert ends == {10, 20}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_ranks_commit_one_checkpoint(tmp_path, asynchronous):
    store = Store(str(tmp_path / "run"))
    saved_by(store, 3, asynchronous=asynchronous)
    chosen = together(3, lambda rank, gather: Checkpoints(store, rank, 3, 2, gather).newest())
    assert chosen[0] == chosen[1] == chosen[2]
    assert sorted(chosen[0]["files"]) == [f"rank-0000{r}.safetensors" for r in range(3)]
    assert newest_step(alone(store), store) == 10


@pytest.mark.parametrize("readers", [1, 2, 3, 5])
def test_each_rank_verifies_its_share_and_all_agree(tmp_path, readers):
    store = Store(str(tmp_path / "run"))
    saved_by(store, 3)
    saved_by(store, 3, 20)
    flip(next(Path(store.root).glob("checkpoints/step-00000020-*/rank-00002.safetensors")))
    chosen = together(readers, lambda rank, gather: Checkpoints(store, rank, readers, 2, gather).newest())
    assert [c["step"] for c in chosen] == [10] * readers


def test_on_s3_it_is_the_same(s3_root):
    store = Store(s3_root)
    for step in STEPS:
        put(store, step, keep=2, asynchronous=True)
    assert newest_step(alone(store), store) == 30
    assert [r["step"] for r in records(store)] == [20, 30]
    name = next(
        n for n in store.list("checkpoints/" + records(store)[-1]["folder"].split("/")[1], ".safetensors")
    )
    data = bytearray(store.read(name))
    data[-1] ^= 1
    store.replace(name, bytes(data))
    assert newest_step(alone(store), store) == 20
