"""Harm falls when so much is committed, once each, in its order; what it makes be done twice is counted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe.chaos.case import Case
from raypipe.chaos.nemesis import Nemesis, committed
from raypipe.chaos.processes import Seen
from raypipe.chaos.schedule import COMMITTED, READ, Kill
from raypipe.settings import DatasetSettings, EvaluateSettings
from raypipe.store.process import start_of


class Scripted:
    """A start that does one step of work between two looks, with a process that stands for a worker."""

    def __init__(self, steps: list[Callable[[], object]], worker: subprocess.Popen | None = None) -> None:
        self.steps, self.worker, self.alive, self.done = steps, worker, True, 0

    def watch(self, look: Callable[[], None]) -> int:
        look()
        for step in self.steps:
            step()
            self.done += 1
            look()
            if not self.alive:
                return -9
        return 0

    def kill(self) -> bool:
        self.alive = False
        return True

    def processes(self) -> list[Seen]:
        if self.worker is None:
            return []
        pid = self.worker.pid
        return [Seen(pid, 1, "ray::Map(prepare_unit)", start_of(pid) or "")]


@pytest.fixture
def worker():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def writing(*files: Path) -> list[Callable[[], object]]:
    for folder in {f.parent for f in files}:
        folder.mkdir(parents=True, exist_ok=True)
    return [f.touch for f in files]


def prepare_case(out: Path) -> Case:
    return Case("prepare", DatasetSettings(name="d", data_root="d", annotations=["a"], out=str(out)), (), ())


def test_each_kill_falls_once_and_at_its_place(tmp_path, worker):
    case, told = prepare_case(tmp_path), []
    due = [Kill("worker", 2, COMMITTED), Kill("driver", 4, COMMITTED)]
    nemesis = Nemesis(case, due, 1, told.append)
    units = [tmp_path / f"units/{n}.json" for n in range(6)]
    first = Scripted(writing(*units), worker)
    assert nemesis.follow(first) is None
    assert first.done == committed(case) == 4
    assert worker.wait(10) == -9
    assert nemesis.follow(Scripted(writing(*units), worker)) == 0
    assert [(kill.fault, done) for kill, done in nemesis.fired] == [("worker", 2), ("driver", 4)]
    assert told == ["worker killed with 2 committed", "driver killed with 4 committed"]


def test_what_finds_nobody_waits_and_is_not_counted(tmp_path):
    nemesis = Nemesis(prepare_case(tmp_path), [Kill("worker", 1, COMMITTED)], 1, lambda _: None)
    assert nemesis.follow(Scripted(writing(tmp_path / "units/1.json", tmp_path / "units/2.json"))) == 0
    assert nemesis.fired == []


def test_temporary_files_do_not_count(tmp_path):
    case = prepare_case(tmp_path)
    for write in writing(tmp_path / "units/.1.json.tmp", tmp_path / "units/.2.json"):
        write()
    assert committed(case) == 0


def test_tries_beyond_the_first_are_counted_over_all_starts(tmp_path):
    """Those that a start before left behind are gone before the next one is at work."""
    nemesis = Nemesis(prepare_case(tmp_path), [Kill("driver", 1, COMMITTED)], 1, lambda _: None)
    tries, unit = [tmp_path / f"attempts/{name}" for name in ("a-0", "b-0", "b-1")], tmp_path / "units/a.json"
    assert nemesis.follow(Scripted(writing(*tries, unit))) is None
    assert nemesis.twice == {"decode": 1}
    again = [lambda: [file.unlink() for file in tries], *writing(tmp_path / "attempts/b-0")]
    assert nemesis.follow(Scripted(again)) == 0
    assert nemesis.twice == {"decode": 2}


def test_an_evaluation_counts_what_is_read_and_what_is_answered(tmp_path, worker):
    settings = EvaluateSettings(model="m", eval_root="e", out=str(tmp_path))
    due = [Kill("worker", 2, READ), Kill("driver", 1, COMMITTED)]
    nemesis = Nemesis(Case("evaluate", settings, (), ()), due, 1, lambda _: None)
    reads = [tmp_path / f"attempts/read/u{n}/0000" for n in range(3)]
    answers = [tmp_path / "attempts/answer/u0/0000", tmp_path / "predictions/u0.arrow"]
    assert nemesis.follow(Scripted(writing(*reads, *answers), worker)) is None
    assert [(kill.fault, done) for kill, done in nemesis.fired] == [("worker", 2), ("driver", 1)]
    assert worker.wait(10) == -9
    assert nemesis.twice == {"answer": 0, "read": 0}
