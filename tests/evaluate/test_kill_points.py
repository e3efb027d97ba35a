"""An evaluation with its judge that comes to harm at its operations on files, and is started again.

Each attempt runs in a forked child. By default some operations are tried, chosen by a seed that is printed;
RAYPIPE_ALL_FAULTS=1 tries every one.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raypipe.evaluate import read
from raypipe.evaluate.run import evaluate
from raypipe.evaluate.work import Answerer, Done
from raypipe.store.verify import verify
from tests.support.eval_media import asking, eval_root
from tests.support.evaluated import Teller, committed, scores_of
from tests.support.judge_endpoint import JudgeEndpoint, Say, good
from tests.support.kills import REFUSED, forked, points
from tests.support.prepared import NoSandbox
from tests.support.tiny import save_tiny

KILLED = -signal.SIGKILL
CONCURRENCY = 2


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setattr(read, "shared_sandbox", NoSandbox)
    for name in ("fsync", "fdatasync"):  # see kills._Disk
        monkeypatch.setattr(os, name, lambda _: None)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return eval_root(tmp_path_factory.mktemp("eval"))


@pytest.fixture
def endpoint():
    def verdict(shown: dict[str, str]) -> Say:
        told = sorted((name, text) for name, text in shown.items() if name != "code")
        score = sum(map(ord, str(told))) % 6
        return Say(good(verdict="yes" if score > 2 else "no", score=score))

    with JudgeEndpoint(then=verdict) as endpoint:
        yield endpoint


@dataclass
class Scenario:
    """A run to be harmed: how it starts, what it is asked for, what an undisturbed one leaves behind."""

    settings: Any
    endpoint: JudgeEndpoint
    log: Path
    before: Path | None = None
    operations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out = Path(self.settings.out)
        self.reset()
        code, self.operations = forked(self.run)
        assert code == 0
        self.wanted = scores_of(self.out)
        self.units = set(committed(self.out))
        self.calls = len(self.endpoint.calls)
        assert verify(str(self.out)).damage == []

    def reset(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        if self.before:
            shutil.copytree(self.before, self.out)
        self.log.unlink(missing_ok=True)
        self.endpoint.calls.clear()

    def run(self) -> None:
        evaluate(self.settings, execute=self._execute)

    def _execute(self, units, work):
        reader, answerer = work.reader(), Answerer(Teller(), work.store, work.certified)
        for unit in units:
            with open(self.log, "a") as log:
                log.write(f"{unit.id}.arrow\n")
            yield Done(unit.id, tuple(answerer(unit, reader(unit))))

    def answered(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def continues(self, said: str) -> None:
        """Starts it again, as it is: the end is the same, and nothing committed is made again."""
        before, so_far = committed(self.out), len(self.answered())
        code, _ = forked(self.run)
        assert code == 0, said
        assert scores_of(self.out) == self.wanted, said
        now = committed(self.out)
        kept = {name: mark for name, mark in before.items() if name in self.units}
        assert kept.items() <= now.items(), said
        assert now.keys() == self.units, said
        assert not {*self.answered()[so_far:]} & kept.keys(), said
        assert verify(str(self.out)).damage == [], said
        again = len(self.endpoint.calls) - self.calls
        assert again <= CONCURRENCY, f"{said}: {again} calls were paid twice"


def settings_of(root: Path, model: Path, out: Path, endpoint: JudgeEndpoint):
    judge = {"base_url": endpoint.base_url, "key_env": "RAYPIPE_TEST_NO_KEY", "concurrency": CONCURRENCY}
    return asking(root, model, out, judge=judge, certificate=3)


def fresh(folder: Path, root: Path, endpoint: JudgeEndpoint) -> Scenario:
    settings = settings_of(root, save_tiny(folder / "model"), folder / "run", endpoint)
    return Scenario(settings, endpoint, folder / "log")


def changed(folder: Path, root: Path, endpoint: JudgeEndpoint) -> Scenario:
    """A finished run of other weights lies in the folder: none of its answers may be met."""
    settings = settings_of(root, save_tiny(folder / "model", seed=5), folder / "run", endpoint)
    first = Scenario(settings, endpoint, folder / "log")
    shutil.copytree(first.out, folder / "before")
    shutil.rmtree(folder / "model")
    save_tiny(folder / "model", seed=6)
    return Scenario(settings, endpoint, folder / "log", folder / "before")


SCENARIOS = {"fresh": fresh, "changed": changed}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("harm", ["kill", "power"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_it_ends_the_same(tmp_path, root, endpoint, name, harm):
    scenario = SCENARIOS[name](tmp_path, root, endpoint)
    kinds: Counter[str] = Counter()
    tried = points(len(scenario.operations), 10)
    for at in tried:
        scenario.reset()
        code, log = forked(scenario.run, at, harm)
        if len(log) < at:  # the judge's thread made an operation less this time
            assert code == 0
            continue
        assert code == KILLED
        kinds[log[at - 1].split()[0]] += 1
        scenario.continues(f"{harm} at operation {at}, {log[at - 1]}")
    print(f"{name}, {harm}: {kinds.total()} of {len(scenario.operations)} operations: {dict(kinds)}")
    assert kinds.total() >= len(tried) - 3
    assert kinds.total() >= 8


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("harm", ["ENOSPC", "EIO"])
def test_a_refusal_of_the_disk_ends_with_5_and_the_same_command_continues(tmp_path, root, endpoint, harm):
    scenario = fresh(tmp_path, root, endpoint)
    codes: Counter[int] = Counter()
    for at in points(len(scenario.operations), 8):
        scenario.reset()
        code, log = forked(scenario.run, at, harm)
        if len(log) < at:
            continue
        said = f"{harm} at operation {at}, {log[at - 1]}"
        # A temporary file that cannot be removed harms nobody; a folder that is there need not be made.
        assert code == REFUSED or log[at - 1].startswith(("unlink .", "mkdir ")), said
        assert code in (REFUSED, 0), said
        codes[code] += 1
        scenario.continues(said)
    assert codes[REFUSED] >= 4
