"""A prepare run that comes to harm at its operations on files, and is started again.

Each attempt runs in a forked child. By default some operations are tried, chosen by a seed that is
printed; RAYPIPE_ALL_FAULTS=1 tries every one.
"""

import os
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raypipe.prepare import work
from raypipe.records import Reason, Rejection
from raypipe.store.files import Store
from raypipe.store.verify import verify
from tests.support.kills import ALL, REFUSED, forked, points
from tests.support.prepared import NoSandbox, contents, dataset, prepared
from tests.support.whole import (
    MORE,
    committed_units,
    differing,
    expected_ids,
    numbered,
    proved,
    small_root,
    write_numbered,
)

KILLED = -signal.SIGKILL


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch):
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # see kills._Disk


@dataclass
class Scenario:
    """A run to be harmed: how it starts, what it is asked for, what an undisturbed one leaves behind."""

    root: Path
    out: Path
    before: Path | None = None
    more: dict[str, Any] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    same_bytes: bool = True

    def __post_init__(self) -> None:
        self.settings = dataset(self.root, self.out, **MORE, **self.more)
        self.reset()
        code, self.operations = forked(self.run)
        assert code == 0
        self.wanted = contents(self.out)
        self.check()

    def reset(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        if self.before:
            shutil.copytree(self.before, self.out)

    def run(self) -> None:
        prepared(self.root, self.out, **MORE, **self.more)

    def harmed(self, at: int, harm: str) -> int:
        """Runs until it is harmed; what is there then must be whole."""
        code, log = forked(self.run, at, harm)
        assert len(log) >= at, "the fault did not fire"
        if (self.out / "commit.json").exists():
            said = verify(str(self.out)).damage
            # Before the commit is taken back, units of the next input may lie beside those it vouches for.
            assert [s for s in said if "not named in the manifest" not in s] == [], (
                f"{harm} at {at}: {log[-1]}"
            )
        committed_units(Store(str(self.out)))
        return code

    def check(self) -> None:
        proved(self.settings, self.removed)

    def continues(self, said: str) -> None:
        self.run()
        if self.same_bytes:
            assert differing(contents(self.out), self.wanted) == [], said
        else:
            self.check()


def fresh(folder: Path) -> Scenario:
    return Scenario(small_root(folder / "data"), folder / "run")


def changed(folder: Path) -> Scenario:
    """A finished run of other input: media are new, gone, taken down, carried over, and reused."""
    root = write_numbered(folder / "data", {f"{n}.png": n for n in range(1, 5)})
    shutil.copy2(root / "1.png", root / "copy.png")  # stored once with 1.png, which is taken down
    older = write_numbered(folder / "older", {"5.png": 5})
    shutil.copytree(older, root, dirs_exist_ok=True)
    prepared(root, folder / "reused", **MORE)
    write_numbered(root, {f"{n}.png": n for n in range(1, 4)}, numbered("copy.png", 1))
    prepared(root, folder / "run", **MORE)
    shutil.copytree(folder / "run", folder / "before")
    write_numbered(root, {f"{n}.png": n for n in (1, 2, 5, 6)}, numbered("copy.png", 1))
    (folder / "list").write_text("1.png\n")
    more = {"remove": str(folder / "list"), "reuse": [str(folder / "reused")]}
    return Scenario(root, folder / "run", folder / "before", more, frozenset(["1.png"]))


class Slow(NoSandbox):
    """A decoder that is too slow for one image."""

    def decode(self, request):
        if request.path == "2.png":
            return Rejection(request.key, "medium", Reason.DECODER_TIMEOUT, "too slow", request.path)
        return super().decode(request)


def retried(folder: Path) -> Scenario:
    """A finished run with a medium in quarantine, which is decoded again."""
    root = write_numbered(folder / "data", {f"{n}.png": n for n in range(1, 4)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "shared_sandbox", Slow)
        prepared(root, folder / "run", **MORE)
    shutil.copytree(folder / "run", folder / "before")
    # Killed after the commit, it retries again what is left in quarantine: its plan has another name.
    more = {"retry_quarantined": True}
    return Scenario(root, folder / "run", folder / "before", more, same_bytes=False)


SCENARIOS = {"fresh": fresh, "changed": changed, "retried": retried}


def late(operations: list[str]) -> set[int]:
    """The operations of the commit: from the seal of the lease on, those that link, replace or remove."""
    start = next(n for n, line in enumerate(operations, 1) if line.endswith(".closed") and "link" in line)
    numbered = enumerate(operations[start - 1 :], start)
    return {
        n for n, line in numbered if line.split()[0] in ("link", "replace", "unlink") and ".tmp" not in line
    }


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("harm", ["kill", "power"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_it_ends_the_same(tmp_path, name, harm):
    scenario = SCENARIOS[name](tmp_path)
    kinds: Counter[str] = Counter()
    tried = points(len(scenario.operations), 25, late(scenario.operations))
    for at in tried:
        scenario.reset()
        assert scenario.harmed(at, harm) == KILLED
        kinds[scenario.operations[at - 1].split()[0]] += 1
        scenario.continues(f"{harm} at operation {at}, {scenario.operations[at - 1]}")
    print(f"{name}, {harm}: {len(tried)} of {len(scenario.operations)} operations: {dict(kinds)}")
    assert kinds.total() == len(tried) > 10
    assert {"link", "replace"} <= kinds.keys()


@pytest.mark.timeout(600)
def test_killed_again_while_it_continues(tmp_path):
    scenario = changed(tmp_path)
    total, second = len(scenario.operations), 0
    for at in points(total, 6):
        scenario.reset()
        assert scenario.harmed(at, "kill") == KILLED
        middle = shutil.copytree(scenario.out, tmp_path / f"killed-{at}")
        code, log = forked(scenario.run)
        assert code == 0
        for again in points(len(log), 2)[at % 10 :: 10] if ALL else points(len(log), 2):
            shutil.rmtree(scenario.out)
            shutil.copytree(middle, scenario.out)
            assert scenario.harmed(again, "kill") == KILLED
            second += 1
            scenario.continues(f"killed at {at} and at {again}")
    assert second >= 12


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("harm", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", ["fresh", "changed"])
def test_a_refusal_of_the_disk_ends_with_5_and_the_same_command_continues(tmp_path, name, harm):
    scenario = SCENARIOS[name](tmp_path)
    codes: Counter[int] = Counter()
    for at in points(len(scenario.operations), 16):
        scenario.reset()
        code = scenario.harmed(at, harm)
        said = f"{harm} at operation {at}, {scenario.operations[at - 1]}"
        # A temporary file that cannot be removed harms nobody; a folder that is there need not be made.
        assert code == REFUSED or scenario.operations[at - 1].startswith(("unlink .", "mkdir ")), said
        assert code in (REFUSED, 0), said
        codes[code] += 1
        scenario.continues(said)
    assert codes[REFUSED] > 8


def test_the_ids_are_counted_without_the_run(tmp_path):
    """The proof itself must see what is lost and what is doubled."""
    scenario = fresh(tmp_path)
    ids = expected_ids(scenario.settings)
    assert len(ids) == len(set(ids)) == 6
    scenario.check()
    file = scenario.root / "tune.json"
    file.write_text(file.read_text().replace("Hello?", "Hullo?"))
    with pytest.raises(AssertionError, match="lost or doubled"):
        scenario.check()
