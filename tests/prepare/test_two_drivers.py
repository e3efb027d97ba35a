"""Several drivers on one output: one writes, the others are refused; a late one changes nothing."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from raypipe.errors import RaypipeError
from raypipe.prepare import commit, work
from raypipe.prepare.run import prepare
from raypipe.store.lease import FOLDER, Lease
from raypipe.store.process import Process
from tests.support.prepared import NoSandbox, contents, dataset, prepared
from tests.support.whole import MORE, differing, proved, write_numbered

TTL_S = 0.5
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(Lease.take.__func__, "__defaults__", (TTL_S,))


@pytest.fixture
def root(tmp_path) -> Path:
    return write_numbered(tmp_path / "data", {f"{n}.png": n for n in range(20)})


def forked(act: Callable[[], object]) -> int:
    """Starts ``act`` in a process of its own, which ends with the exit code of its error; its pid."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        except RaypipeError as fault:
            code = fault.exit_code
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def first_ended(children: Iterable[int]) -> tuple[int, int]:
    """Waits for one of these processes, and for no other child of ours; its pid and its exit code."""
    found: list[tuple[int, int]] = []

    def one_ended() -> bool:
        for child in children:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                found.append((pid, os.waitstatus_to_exitcode(status)))
                return True
        return False

    wait_for(one_ended)
    return found[0]


def wait_for(there: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("same", [True, False], ids=["same_input", "other_input"])
def test_of_four_drivers_one_commits(tmp_path, root, same):
    """The one that holds the folder goes on when all the others have ended."""
    gone = ["", "0.png", "1.png", "0.png\n1.png"]
    settings = []
    for number in range(4):
        (tmp_path / f"list{number}").write_text("" if same else gone[number])
        more = {**MORE, "remove": str(tmp_path / f"list{number}")}
        settings.append(dataset(root, tmp_path / "run", **more))
    go = tmp_path / "go"

    def driver(number: int) -> None:
        def execute(units, unit_work):
            (tmp_path / f"holds{number}").touch()
            wait_for(go.exists)
            return map(unit_work, units)

        prepare(settings[number], execute=execute)

    drivers = {forked(lambda number=number: driver(number)): number for number in range(4)}
    codes = []
    for _ in range(3):
        child, code = first_ended(drivers)
        del drivers[child]
        codes.append(code)
    assert codes == [5, 5, 5]
    go.touch()
    winner = drivers.popitem()
    assert ended(winner[0]) == 0
    assert [f.name for f in tmp_path.glob("holds*")] == [f"holds{winner[1]}"]
    made = contents(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "theirs")
    prepare(settings[winner[1]], execute=lambda units, unit_work: map(unit_work, units))
    # The settings say how the last one to ask wanted it done: its removal list has another name.
    assert differing(made, contents(tmp_path / "run")) in ([], ["settings.json"])
    proved(settings[winner[1]], frozenset() if same else frozenset(gone[winner[1]].split()))


STOPS = {
    "at_work": (work, "carry_out"),
    "before_the_commit": (commit, "outcome_of"),
    "in_the_commit": (commit, "_write_index"),
    "between_samples": (commit, "encode_blocks"),
}


@pytest.mark.parametrize("place", STOPS)
def test_a_driver_that_sleeps_through_its_succession_changes_nothing(tmp_path, root, place, monkeypatch):
    """It is stopped for longer than its lease lasts, one on another host finishes, and it is woken up."""
    settings = dataset(root, tmp_path / "run", **MORE)
    module, name = STOPS[place]

    def sleeper() -> None:
        real = getattr(module, name)
        seen = 0

        def stopping(*args, **kwargs):
            nonlocal seen
            seen += 1
            made = real(*args, **kwargs) if name != "_write_index" else None
            if seen == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            return made if name != "_write_index" else real(*args, **kwargs)

        setattr(module, name, stopping)
        prepared(root, tmp_path / "run", **MORE)

    child = forked(sleeper)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    try:
        elsewhere = replace(Process.this(), host="elsewhere")
        with monkeypatch.context() as patch:
            patch.setattr(Process, "this", classmethod(lambda _: elsewhere))
            prepared(root, tmp_path / "run", **MORE)
        proved(settings)
        before, files = contents(tmp_path / "run"), _files(tmp_path / "run")
    finally:
        os.kill(child, signal.SIGCONT)
        code = ended(child)
    assert code == 4
    assert differing(contents(tmp_path / "run"), before) == []
    # In the middle of a step it ends that step, with the bytes that are there; and takes no other.
    assert place == "in_the_commit" or _files(tmp_path / "run") == files
    proved(settings)


def _files(run: Path) -> dict[str, int]:
    found = (f for f in run.rglob("*") if f.is_file() and FOLDER not in f.parts)
    return {str(f): f.stat().st_ino for f in found}


def test_a_stopped_driver_of_this_host_is_not_taken_for_dead(tmp_path, root):
    def sleeper() -> None:
        def execute(units, unit_work):
            os.kill(os.getpid(), signal.SIGSTOP)
            return map(unit_work, units)

        prepare(dataset(root, tmp_path / "run", **MORE), execute=execute)

    child = forked(sleeper)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    try:
        time.sleep(1.2 * TTL_S)
        assert ended(forked(lambda: prepared(root, tmp_path / "run", **MORE))) == 5
    finally:
        os.kill(child, signal.SIGCONT)
        code = ended(child)
    assert code == 0
    proved(dataset(root, tmp_path / "run", **MORE))
