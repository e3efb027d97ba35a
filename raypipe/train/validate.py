"""Validation beside training: a thread of the driver that scores committed checkpoints in Ray tasks.

Training never waits for it (but in a search, ``validation.wait``) and never fails by it: a task that fails
is tried once more, then its reason is recorded in place of its figures.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.cluster import unwrapped
from raypipe.errors import RaypipeError, RequestError
from raypipe.gauges import run_of
from raypipe.settings import StageSettings
from raypipe.store.run import Run
from raypipe.train import scored
from raypipe.train.gauges import tell_validation
from raypipe.train.plan import StagePlan

POLL_S = 0.5
TRIES = 2
FINISH_S = 3600.0  # for what is still due once training is over
log = logging.getLogger(__name__)
Tell = Callable[[str], None]


def check_validation(settings: StageSettings) -> None:
    """Refuses, before anything starts, validation that cannot work as it is set.

    Raises:
        RequestError: the period, the metric, or a benchmark that is judged or has no data.
    """
    scored.check(settings)
    chosen = settings.validation
    for name in chosen.benchmarks:
        benchmark = benchmarks.load(name)
        if benchmark.rule is None:
            raise RequestError(
                f"validation.benchmarks: the answers of {name} are judged, which validation does not do",
                "leave it out here, and evaluate the finished model: raypipe evaluate",
            )
        lack = benchmark.missing_data(str(chosen.eval_root))
        if lack is not None:
            raise RequestError(f"validation.benchmarks: {name}: no such file: {lack}", "fetch it first")


@contextlib.contextmanager
def validating(
    run: Run, plan: StagePlan, settings: StageSettings, tell: Tell | None = None, *, led: bool = False
) -> Iterator[None]:
    """Scores the run's checkpoints while the block trains, and after it those that are left.

    Where the block is left by an error, the task at work is ended and nothing more is scored; the same
    command scores it later.

    Args:
        tell: called with a line for people whenever a checkpoint has been scored, or could not be.
        led: somebody else lets workers go that wait for their score (``scored.let_go``).
    """
    if not scored.wanted(settings):
        yield
        return
    work = _Validation(run, plan, settings, tell or (lambda line: None), led)
    thread = threading.Thread(target=work.until_over, name="validation", daemon=True)
    thread.start()
    try:
        yield
        work.training_is_over()
        thread.join()
        scored.prune(run.store, settings)
    finally:
        work.end()
        thread.join(10)


class _Validation:
    """The thread's work: one task at a time, the oldest checkpoint that is due first."""

    def __init__(self, run: Run, plan: StagePlan, settings: StageSettings, tell: Tell, led: bool) -> None:
        self._led = led
        self._store, self._plan, self._settings, self._tell = run.store, plan, settings, tell
        self._ended = threading.Event()
        self._deadline: float | None = None  # monotonic; None while training goes on

    def training_is_over(self) -> None:
        self._deadline = time.monotonic() + FINISH_S

    def end(self) -> None:
        self._ended.set()

    def until_over(self) -> None:
        while not self._ended.is_set():
            over = self._deadline is not None  # read first: what is committed before it is then seen
            try:
                waiting = scored.due(self._store, self._settings, self._plan.steps)
                if waiting:
                    self._one(waiting[0], len(waiting) - 1)
                    continue
            except Exception as fault:  # a store that does not answer: training must not feel it
                log.warning("validation: %s: %s", type(fault).__name__, fault)
            if over:
                return
            self._ended.wait(POLL_S)

    def _one(self, step: int, left: int) -> None:
        record: dict[str, Any] = {}
        for _ in range(TRIES):
            try:
                record = self._score(step)
                break
            except RaypipeError as fault:
                record = {"step": step, "fault": fault.message}
            if self._ended.is_set():
                return
        scored.put(self._store, record, self._settings)
        tell_validation(run_of(self._settings.out), record)
        if self._settings.validation.wait and not self._led:
            scored.let_go(self._store, step)
        self._tell(line_of(record) + (f", {left} left" if left else ""))

    def _score(self, step: int) -> dict[str, Any]:
        import ray

        chosen = self._settings.validation
        options: dict[str, Any] = {"num_cpus": chosen.cpus, "num_gpus": chosen.gpus, "max_retries": 0}
        options["name"] = f"validate {self._settings.name}"
        if not chosen.gpus and ray.cluster_resources().get("GPU"):
            options["runtime_env"] = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
        # DEFAULT: not inside the placement group of a search's trial, which has no room for it.
        task = ray.remote(_scoring).options(scheduling_strategy="DEFAULT", **options)
        result = task.remote(self._plan, self._settings.model_dump(mode="json"), step)
        while True:
            ready, _ = ray.wait([result], timeout=POLL_S)
            late = self._deadline is not None and time.monotonic() > self._deadline
            if ready:
                break
            if late or self._ended.is_set():
                ray.cancel(result, force=True)
                raise RaypipeError("validation did not end in time" if late else "stopped")
        with unwrapped(f"validation of step {step}"):
            return dict(ray.get(result))


def _scoring(plan: StagePlan, settings: dict[str, Any], step: int) -> dict[str, Any]:
    """Runs in a Ray task."""
    from raypipe.train.score import score_checkpoint

    return score_checkpoint(plan, StageSettings.model_validate(settings), step)


def line_of(record: dict[str, Any]) -> str:
    """One record for people."""
    if record.get("fault"):
        return f"validation of step {record['step']} failed: {record['fault']}"
    shown = []
    if record.get(scored.LOSS) is not None:
        known = record.get("low") is not None
        interval = f" [{record['low']:.4f}, {record['high']:.4f}]" if known else ""
        shown.append(f"loss {record['loss']:.4f}{interval}")
    for name, metrics in record.get("benchmarks", {}).items():
        shown += [f"{name}.{m} {v:.2f}" for m, v in metrics.items() if v is not None]
    return f"validation of step {record['step']}: {', '.join(shown)}"
