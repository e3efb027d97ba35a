"""One trial of a search as Ray Tune sees it, and the scheduler that writes down whom it stops."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from ray.tune import Callback, Trainable
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from raypipe.errors import RaypipeError
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.train import scored
from raypipe.train.plan import plan_stage
from raypipe.train.run import train
from raypipe.train.stop import Stop, free_orphans
from raypipe.train.trials import FAILED, STOPPED

POLL_S = 0.2
JOIN_S = 120.0
ORPHANS_S = 2.0


class StageTrial(Trainable):
    """Trains a stage in a thread of its actor and reports each validation of it.

    A stage that fails ends its trial, with the reason in the trial's folder, and not the search. Only an
    actor that dies is started again; the stage then continues from its checkpoint.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._settings = StageSettings.model_validate(config["trial"]["stage"])
        self._store, self._stop = Store(self._settings.out), Stop()
        self._told, self._passed, self._last = 0, 0, 0
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._train, name="stage", daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """Waits for the next validation; the last one is told when the stage has been committed.

        That this is called again says that the scheduler lets the trial go on.
        """
        if self._told:
            scored.let_go(self._store, self._told)
        while True:
            over = not self._thread.is_alive()  # read first: its last row is then there
            row = self._next()
            if row is not None and (over or row["step"] < self._last):
                self._told = row["step"]
                return {"step": row["step"], "value": row["value"], "done": over and self._next() is None}
            if row is None:
                self._pass_by_faults()
            if over:
                return {"step": self._told, "done": True}
            time.sleep(POLL_S)

    def cleanup(self) -> None:
        """The trial is over only when its workers are gone."""
        self._stop.now()
        self._thread.join(JOIN_S)

    def _train(self) -> None:
        try:
            self._last = plan_stage(self._settings).steps
            self._store.delete(FAILED)
            train(self._settings, stop=self._stop)
        except Exception as fault:
            if not self._stop.asked:
                message = (
                    fault.message if isinstance(fault, RaypipeError) else f"{type(fault).__name__}: {fault}"
                )
                self._store.replace(FAILED, (json.dumps({"reason": message}) + "\n").encode())

    def _pass_by_faults(self) -> None:
        """A checkpoint that could not be scored does not hold its trial."""
        newest = max((int(r["step"]) for r in scored.rows(self._store)), default=0)
        if newest > max(self._told, self._passed):
            self._passed = newest
            scored.let_go(self._store, newest)

    def _next(self) -> dict[str, Any] | None:
        """The next step with a value that has not been told."""
        for record in scored.rows(self._store):
            value = scored.value_of(record, self._settings.validation.metric)
            if record["step"] > self._told and value is not None:
                return {"step": int(record["step"]), "value": value}
        return None


class Orphans(Callback):
    """Gives back what trials held whose actors died; Tune calls it all the time."""

    def __init__(self) -> None:
        self._looked = 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._looked > ORPHANS_S:
            free_orphans()
            self._looked = time.monotonic()


class WrittenASHA(ASHAScheduler):
    """ASHA that leaves a file in the folder of each trial it stops, and knows trials of an earlier start."""

    def remember(self, name: str, rows: list[tuple[int, float]]) -> None:
        """Takes up what a trial told before this start."""
        earlier = _Named(name)
        self.on_trial_add(None, earlier)
        for step, value in rows:
            super().on_trial_result(None, earlier, {"step": step, "value": value})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            stage = trial.config["trial"]["stage"]
            Store(stage["out"]).replace(STOPPED, (json.dumps({"step": result["step"]}) + "\n").encode())
        return str(decision)


class _Named:
    """All of a trial that the scheduler asks for."""

    def __init__(self, name: str) -> None:
        self.trial_id = name
