"""Trials whose actors are killed: one comes back and ends, one is killed each time and is told as failed."""

import os
import signal
from pathlib import Path

import pytest

from raypipe.settings import TuneSettings
from raypipe.store.journal import rows as rows_of
from raypipe.store.verify import verify
from raypipe.train import trial
from raypipe.train.trials import table
from raypipe.train.tune import STARTS, tune
from tests.support.prepared import drawn_run
from tests.train.test_tune import RATE, nobody_left, search

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900), pytest.mark.usefixtures("ray_local")]
ONCE, ALWAYS, FINE = 3e-3, 1e-3, 1e-4
STEPS = 6


@pytest.fixture
def settings(tmp_path) -> TuneSettings:
    drawn_run(tmp_path)
    more = {"set": {"steps": STEPS}, "space": {RATE: {"grid": [ONCE, ALWAYS, FINE]}}, "scheduler": "none"}
    return search(tmp_path, "deaths", **more)


def killed(kills: dict[float, int]) -> type:
    """A trial whose process gets SIGKILL when its first score is there, so many times; it notes each."""

    class Killed(trial.StageTrial):
        def step(self):
            result = super().step()
            folder = Path(self._store.root)
            before = len(list(folder.glob("killed-*")))
            if before < kills.get(self._settings.rates["language_model"], 0):
                (folder / f"killed-{before}-{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    return Killed


def test_a_killed_trial_goes_on_or_is_named_and_the_others_have_their_results(settings, monkeypatch):
    monkeypatch.setattr(trial, "StageTrial", killed({ONCE: 1, ALWAYS: STARTS}))
    result = tune(settings)
    print(table(result))
    rows = {row["settings"][RATE]: row for row in result["trials"]}
    deaths = {rate: len(list(Path(row["out"]).glob("killed-*"))) for rate, row in rows.items()}
    assert deaths == {ONCE: 1, ALWAYS: STARTS, FINE: 0}  # the faults have fired
    assert {rate: row["status"] for rate, row in rows.items()} == {
        ONCE: "done",
        ALWAYS: "failed",
        FINE: "done",
    }
    for rate in (ONCE, FINE):
        assert [step for step, _ in rows[rate]["curve"]] == [3, STEPS]
        assert verify(rows[rate]["out"]).damage == []
    assert result["winner"]["settings"][RATE] in (ONCE, FINE)
    assert f"its process ended {STARTS} times: " in rows[ALWAYS]["reason"]
    assert "Worker exit type: SYSTEM_ERROR" in rows[ALWAYS]["reason"]
    assert len(rows[ALWAYS]["reason"]) < 500
    assert f"failed: {RATE}={ALWAYS}: {rows[ALWAYS]['reason']}" in table(result)
    assert result["counts"] == {"done": 2, "failed": 1}
    attempts = {row["attempt"] for row in rows_of(trial.Store(rows[ONCE]["out"]), "metrics") if row}
    assert max(attempts) == 2  # it went on from its checkpoint, in its second start
    nobody_left(cleaners=True)
