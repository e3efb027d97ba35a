"""The lease: one driver at a time, whoever is killed, paused or late."""

import contextlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from raypipe.errors import ServiceError, StoppedError
from raypipe.store.files import Store
from raypipe.store.lease import KEPT, Lease
from raypipe.store.process import Process, start_of
from tests.store.stepped import Actors

pytestmark = pytest.mark.timeout(60)

ELSEWHERE = Process("elsewhere", "another boot", 1, "1")


def epochs(store: Store) -> list[str]:
    return [n.partition("/")[2] for n in store.list("driver") if not n.endswith(".beat")]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """What is durable after a power cut is not at issue here; thousands of small files are."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def test_one_after_the_other(store):
    with Lease.take(store) as lease:
        lease.check()
        lease.seal()
        lease.check()
        lease.finish()
    assert epochs(store) == ["00001.closed", "00001.done", "00001.json"]
    with Lease.take(store) as lease:
        assert lease.epoch == 2
    assert epochs(store)[3:] == ["00002.closed", "00002.json"]
    for number in range(3, 7):
        with Lease.take(store) as lease:
            assert lease.epoch == number
    assert {int(n[:5]) for n in epochs(store)} == {5, 6}
    assert not [t for t in threading.enumerate() if t.name == "raypipe-lease"]


def test_the_second_is_refused_and_told_by_whom(store):
    with Lease.take(store) as lease:
        for _ in range(2):
            with pytest.raises(
                ServiceError, match=f"another driver is writing .*pid {os.getpid()}, since 20"
            ):
                Lease.take(store)
        lease.seal()
        with pytest.raises(ServiceError, match="another driver is writing"):
            Lease.take(store)
        lease.finish()
        Lease.take(store).release()
    assert lease.epoch == 1


def test_a_failed_commit_gives_the_lease_up(store):
    def fail() -> None:
        with Lease.take(store) as lease:
            lease.seal()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with Lease.take(store) as later:
        assert later.epoch == 2


def test_a_dead_holder_of_this_host_is_followed_at_once(store):
    gone = replace(Process.this(), started="1")  # the id was given to another process since
    for sealed in (False, True):
        lease = Lease.take(store, who=gone)
        if sealed:
            lease.seal()
        with Lease.take(store) as later:
            assert later.epoch == lease.epoch + 1
            for act in (lease.check, lease.finish if sealed else lease.seal):
                with pytest.raises(StoppedError, match="took over") as fault:
                    act()
            assert fault.value.exit_code == 4
            later.check()
        lease.release()
    last = json.loads(store.read("driver/00003.done"))
    assert last["state"] == "fenced"


def test_a_killed_process_is_followed_at_once(store, monkeypatch):
    text = (
        "import sys, time; from raypipe.store.files import Store; from raypipe.store.lease import Lease\n"
        "lease = Lease.take(Store(sys.argv[1])); getattr(lease, sys.argv[2])()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    for act in ("check", "seal"):
        command = [sys.executable, "-c", text, store.root, act]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout
                assert holder.stdout.readline() == b"held\n"
                with pytest.raises(ServiceError, match=f"pid {holder.pid}"):
                    Lease.take(store)
            finally:
                holder.kill()
            while start_of(holder.pid) is not None:  # it is dead before its parent takes note
                time.sleep(0.001)
            with monkeypatch.context() as patch:
                patch.setattr(time, "sleep", None)  # who waits, as for a holder elsewhere, breaks
                Lease.take(store).release()


def test_a_zombie_whose_epoch_was_cleaned_away_passes_nothing(store):
    """So late that even the objects that fenced it are gone, and each of its names is free again."""
    gone = replace(Process.this(), started="1")
    open_one, sealed = Lease.take(store, who=gone), Lease.take(store, who=gone)
    sealed.seal()
    for _ in range(KEPT + 1):
        Lease.take(store).release()
    assert not {n[:5] for n in epochs(store)} & {"00001", "00002"}
    for act in (open_one.seal, sealed.finish):
        with pytest.raises(StoppedError):
            act()
    with Lease.take(store) as lease:
        lease.seal()
        lease.finish()


def test_a_late_looker_does_not_take_an_epoch_that_was_cleaned_away(store, monkeypatch):
    late, looked = Store(store.root), []

    def stale(folder: str = "", suffix: str = "") -> list[str]:
        looked.append(folder)
        return [] if len(looked) == 1 else Store.list(late, folder, suffix)

    for _ in range(KEPT + 2):
        Lease.take(store).release()
    held = Lease.take(store)
    monkeypatch.setattr(late, "list", stale)
    with pytest.raises(ServiceError, match="another driver is writing"):
        Lease.take(late)
    assert len(looked) >= 3
    held.seal()
    held.finish()


def test_a_holder_elsewhere_lives_by_its_beat(store):
    holder = Lease.take(store, 0.4, who=ELSEWHERE)
    with pytest.raises(ServiceError, match="host elsewhere"):
        Lease.take(store, 0.4)
    holder.seal()
    with pytest.raises(ServiceError, match="host elsewhere"):
        Lease.take(store, 0.4)
    holder.finish()
    assert Lease.take(store, 0.4, who=ELSEWHERE).epoch == 2


@pytest.mark.parametrize("sealed", [False, True])
def test_a_silent_holder_elsewhere_is_followed_after_its_time(store, sealed):
    holder = Lease.take(store, 0.4, who=ELSEWHERE)
    if sealed:
        holder.seal()
    holder._stop.set()
    holder._thread.join()
    start = time.monotonic()
    with Lease.take(store, 0.1):
        assert time.monotonic() - start >= 0.4  # its time counts, not the newcomer's
        with pytest.raises(StoppedError):
            (holder.finish if sealed else holder.seal)()


def test_the_watch_ends_when_the_holder_does(store):
    holder = Lease.take(store, 60, who=ELSEWHERE)
    timer = threading.Timer(0.2, holder.release)
    timer.start()
    Lease.take(store, 1).release()
    timer.join()


def test_a_fenced_holder_stops_beating(store):
    holder = Lease.take(store, 0.2, who=replace(Process.this(), started="1"))
    with Lease.take(store):
        holder._thread.join(10)
        assert not holder._thread.is_alive()


def test_odd_files_in_the_folder_are_no_epochs(store):
    for name in ("notes.json", "0000x.json", "-0001.json", "sub/00009.json"):
        store.replace(f"driver/{name}", b"[")
    store.replace("driver/00003.json", b"not json")  # no holder can be read from it: silent
    with Lease.take(store, 0.1) as lease:
        assert lease.epoch == 4


@pytest.mark.parametrize("block", range(4))
def test_interleavings(tmp_path, block):
    """Actors on one host step through the store in seeded order; some die, some are fenced while alive."""
    seen: dict[str, int] = {}
    for seed in range(block * 40, block * 40 + 40):
        actors = Actors(str(tmp_path / str(seed)), random.Random(seed))
        actors.run()
        assert actors.wrong == [], (seed, actors.wrong)
        for what, count in actors.counts.items():
            seen[what] = seen.get(what, 0) + count
    assert all(seen.get(what, 0) >= 10 for what in ("finished", "refused", "died", "lost")), seen


def _racer(root: str, rounds: int, gate, results, number: int) -> None:
    chance = random.Random(number)
    for current in range(rounds):
        store, lease = Store(f"{root}/{current % 7}"), None
        gate.wait(60)
        with contextlib.suppress(ServiceError):
            lease = Lease.take(store)
        gate.wait(60)  # all have tried, and the holder is alive
        results.put((current, number, lease is not None))
        if lease and chance.random() < 0.5:
            lease.seal()
            lease.finish()
        if lease:
            lease.release()
        gate.wait(60)


def _race(root: str, racers: int, rounds: int) -> None:
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(racers), context.SimpleQueue()
    found: list[tuple[int, int, bool]] = []
    args = [(root, rounds, gate, results, n) for n in range(racers)]
    workers = [context.Process(target=_racer, args=a, daemon=True) for a in args]
    for worker in workers:
        worker.start()
    for _ in range(racers * rounds):
        found.append(results.get())
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for current in range(rounds):
        assert sum(won for at, _, won in found if at == current) == 1, current


@pytest.mark.parametrize("racers", [2, 4])
def test_of_racing_processes_one_wins(tmp_path, racers):
    _race(str(tmp_path), racers, 60)


def test_of_racing_processes_one_wins_on_s3(s3_root):
    _race(s3_root, 3, 8)


def test_interleavings_on_s3(s3_root):
    for seed in range(2):
        actors = Actors(f"{s3_root}/{seed}", random.Random(seed), count=3)
        actors.run()
        assert actors.wrong == [], (seed, actors.wrong)
