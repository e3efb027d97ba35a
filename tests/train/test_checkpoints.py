"""Checkpoints: whole or passed over; the newest whole one is taken."""

import threading
from pathlib import Path

import pytest

from raypipe.errors import RequestError
from raypipe.store.files import Store
from raypipe.train.checkpoints import Checkpoints

STEPS = (10, 20, 30)


def folder(root: Path, step: int, rank: int = 0) -> Path:
    """What one rank would save: files that differ from step to step."""
    place = root / f"local-{step}-{rank}"
    (place / "state").mkdir(parents=True)
    (place / f"state/rank{rank}.bin").write_bytes(bytes([step, rank]) * 1000)
    if rank == 0:
        (place / "latest").write_text(str(step))
    return place


def alone(store: Store, keep: int = 2) -> Checkpoints:
    return Checkpoints(store, 0, 1, keep)


def newest_step(checkpoints: Checkpoints) -> int | None:
    with checkpoints.newest() as found:
        if found is None:
            return None
        step = int((found / "latest").read_text())
        assert (found / "state/rank0.bin").read_bytes() == bytes([step, 0]) * 1000
        return step


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(str(tmp_path / "run"))
    for step in STEPS:
        alone(store, keep=3).commit(folder(tmp_path, step), step)
    return store


def test_the_newest_is_taken(store, tmp_path):
    assert newest_step(alone(store)) == 30
    assert newest_step(alone(Store(str(tmp_path / "nothing")))) is None


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["step-00000030/state/rank0.bin", "step-00000030/latest", "step-00000030.json"]
)
@pytest.mark.parametrize("how", ["flip", "cut", "gone", "empty"])
def test_a_damaged_one_is_passed_over_for_the_one_before(store, name, how):
    file = Path(store.root) / "checkpoints" / name
    if how == "flip":
        _flip(file)
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] if how == "cut" else b"")
    if (name.endswith("json"), how) == (True, "cut"):
        return  # the last byte of a record is its line end: nothing was lost
    assert newest_step(alone(store)) == 20


def test_all_damaged_is_a_start_from_the_beginning(store):
    for file in Path(store.root).rglob("rank0.bin"):
        _flip(file)
    assert newest_step(alone(store)) is None


def test_only_so_many_are_kept(store, tmp_path):
    alone(store, keep=2).commit(folder(tmp_path, 40), 40)
    names = store.list("checkpoints")
    assert {n.split("/")[1].removesuffix(".json") for n in names} == {"step-00000030", "step-00000040"}
    assert newest_step(alone(store)) == 40


def test_a_step_is_taken_again_after_a_fall_back(store, tmp_path):
    _flip(Path(store.root) / "checkpoints/step-00000030/state/rank0.bin")
    assert newest_step(alone(store)) == 20
    (tmp_path / "again").mkdir()
    alone(store).commit(folder(tmp_path / "again", 30), 30)
    assert newest_step(alone(store)) == 30


def test_files_without_a_record_do_not_count(store, tmp_path):
    """A kill after the files and before the record."""
    store.replace_from("checkpoints/step-00000040/state/rank0.bin", folder(tmp_path, 40) / "state/rank0.bin")
    assert newest_step(alone(store)) == 30


def test_another_number_of_workers_is_refused(store):
    with pytest.raises(RequestError) as fault, Checkpoints(store, 0, 2, 2, lambda v: [v, v]).newest():
        pass
    assert "step 30" in fault.value.message
    assert "workers.num=1" in fault.value.remedy


def test_two_ranks_commit_one_checkpoint(tmp_path):
    store, gate = Store(str(tmp_path / "run")), threading.Barrier(2)
    box: dict[int, object] = {}

    def gather_for(rank):
        def gather(value):
            box[rank] = value
            gate.wait()
            values = [box[0], box[1]]
            gate.wait()
            return values

        return gather

    found: dict[int, list[str]] = {}

    def work(rank: int) -> None:
        mine = Checkpoints(store, rank, 2, 2, gather_for(rank))
        mine.commit(folder(tmp_path, 10, rank), 10)
        with mine.newest() as place:
            found[rank] = sorted(p.name for p in place.rglob("*") if p.is_file())

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {rank: ["latest", "rank0.bin", "rank1.bin"] for rank in range(2)}
