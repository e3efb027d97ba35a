"""Which processes are a run's own, and that a kill hits this one or nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from raypipe.chaos.processes import Seen, decoders, family, kill, marked_processes, workers

# A child with the mark starts one that has wiped its environment, and tells its number.
TWO = """
import subprocess, sys
code = "import sys; sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", code], env={}, stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def two() -> Iterator[tuple[str, int, int]]:
    """A mark, a process with it, and its child without."""
    mark = f"RAYPIPE_CHAOS_MARK={uuid.uuid4().hex}"
    name, value = mark.split("=")
    process = subprocess.Popen(
        [sys.executable, "-c", TWO],
        env={**os.environ, name: value},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child = int(process.stdout.readline())
    try:
        yield mark, process.pid, child
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_a_run_is_its_mark_and_what_came_of_it(two):
    mark, parent, child = two
    assert marked_processes(mark) == [parent]
    assert {seen.pid for seen in family(mark)} == {parent, child}
    assert family(f"{mark}0") == []


def test_a_kill_hits_the_very_process_or_none(two):
    mark, _, child = two
    seen = next(s for s in family(mark) if s.pid == child)
    later = replace(seen, started=str(int(seen.started) + 1))  # another process has its number by now
    assert not kill(later)
    assert child in {s.pid for s in family(mark)}
    assert kill(seen)
    while child in {s.pid for s in family(mark)}:
        pass
    assert not kill(seen)
    assert not kill(Seen(2**22 + 5, 1, "", "1"))


def test_only_those_at_work_are_chosen():
    at_work = [
        Seen(10, 1, "ray::Map(prepare_unit)", "5"),
        Seen(11, 1, "ray::MapWorker(Map(answer)).submit", "5"),
        Seen(12, 1, "ray::_RayTrainWorker__execute.get_next", "5"),
        Seen(13, 1, "ray::JudgeActor.send", "5"),
    ]
    idle = [
        Seen(20, 1, "ray::IDLE", "5"),
        Seen(21, 1, "ray::DashboardAgent", "5"),
        Seen(22, 1, "/usr/bin/python -m raypipe.cli prepare Map.yaml", "5"),
    ]
    assert workers([*idle, *at_work]) == at_work
    busy = Seen(30, 10, "/usr/bin/python -m raypipe.media.sandbox", "5")
    resting = Seen(31, 20, "/usr/bin/python -m raypipe.media.sandbox", "5")
    assert decoders([*idle, *at_work, busy, resting]) == [busy]
