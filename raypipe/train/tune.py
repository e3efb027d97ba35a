"""The tune verb: a search over a stage's settings with Ray Tune, or its continuation."""

from __future__ import annotations

import json
import math
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from raypipe.capacity import Need
from raypipe.cluster import machines, require, require_shared, unwrapped
from raypipe.errors import RaypipeError, RequestError
from raypipe.report.search_plot import search_svg
from raypipe.settings import StageSettings, TuneSettings, local, located
from raypipe.settings.stage import read_by
from raypipe.settings.tune import stage_of
from raypipe.store.files import Store
from raypipe.store.run import Manifest, Run
from raypipe.train import scored
from raypipe.train.fit import interruptibly
from raypipe.train.plan import plan_stage
from raypipe.train.run import software
from raypipe.train.space import Trial, trials_of
from raypipe.train.trials import BROKEN, FAILED, Outcome, outcome_of, overrides_of, ranked, table, winner_of
from raypipe.train.validate import check_validation

ROWS, RESULT, PLOT = "trials.jsonl", "search.json", "search.svg"
DRIVER_CPUS = 0.05  # of a trial's actor, which only watches
STARTS = 3  # of a trial's actor, at most
LOOK_S = 2.0
Tell = Callable[[str], None]


def tune(settings: TuneSettings, *, progress: Tell | None = None) -> dict[str, Any]:
    """Searches, or continues; a finished search is left as it is.

    Trials are run folders below ``trials/``, named by the content of their settings. One that is over is
    not trained again; one that was cut off continues from its checkpoint; one that failed is tried again.

    Args:
        progress: called with a line for people every now and then.

    Returns:
        search.json: ``winner`` with its settings as overrides, counts, and ``trials`` in order of rank.

    Raises:
        RequestError: nothing was started: a wrong name or value, no validation, or too small a cluster.
        RaypipeError: every trial failed.
    """
    settings = _settled(settings)
    trials = _checked(settings)
    require_shared([settings.out], read_by(trials[0].stage))
    run = Run.start(settings.out, "tune", settings)
    if not run.complete:
        outcomes = [outcome_of(t, settings.metric) for t in trials]
        if any(not o.over for o in outcomes):
            with _Watching(settings, trials, progress):
                _search(settings, outcomes)
        _commit(run, settings, [outcome_of(t, settings.metric) for t in trials])
    result: dict[str, Any] = json.loads(run.store.read(RESULT))
    return result


def render(result: dict[str, Any]) -> str:
    """The table of a finished search, and its winner's settings to paste."""
    return f"{table(result)}\nbest: {' '.join(result['winner']['overrides'])}"


def _settled(settings: TuneSettings) -> TuneSettings:
    """The stage itself in place of its file, with paths that mean the same in a trial, whose working
    directory is another."""
    stage = located(stage_of(settings))
    return settings.model_copy(update={"stage": stage, "set": {}, "out": local(settings.out)})


def _checked(settings: TuneSettings) -> list[Trial]:
    assert isinstance(settings.stage, StageSettings)  # noqa: S101 - stage_of has read it
    trials = trials_of(settings, settings.stage)
    first = trials[0].stage
    if not scored.wanted(first):
        raise RequestError(
            "tune: trials are compared by validation, and the stage has none",
            "set.validation.fraction=0.02, or set.validation.benchmarks",
        )
    check_validation(first)
    return trials


def _search(settings: TuneSettings, outcomes: list[Outcome]) -> None:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints to stdout however quiet it is to be
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    from ray import tune as ray_tune

    from raypipe.train.trial import Orphans, StageTrial, WrittenASHA

    todo = [o.trial for o in outcomes if not o.over]
    concurrent = concurrent_trials(settings, todo)
    scheduler = None
    if settings.scheduler == "asha":
        longest, grace = _lengths(settings, [o.trial for o in outcomes])
        scheduler = WrittenASHA(
            time_attr="step",
            metric="value",
            mode=settings.mode,
            max_t=max(longest, grace),
            grace_period=grace,
            reduction_factor=settings.reduction,
        )
        for outcome in (o for o in outcomes if o.over):
            scheduler.remember(outcome.trial.id, list(outcome.curve))
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(StageTrial, {"CPU": DRIVER_CPUS}),
        param_space={"trial": ray_tune.grid_search([_packed(t) for t in todo])},
        tune_config=ray_tune.TuneConfig(
            scheduler=scheduler,
            max_concurrent_trials=concurrent,
            trial_dirname_creator=lambda trial: str(trial.config["trial"]["id"]),
            reuse_actors=False,
        ),
        run_config=ray_tune.RunConfig(
            name=f"{settings.name}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{settings.out}/ray",
            failure_config=ray_tune.FailureConfig(max_failures=STARTS - 1),  # of actors: stages report theirs
            # The stages' own checkpoints are committed in their folders.
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[Orphans()],
            verbose=0,
        ),
    )
    with unwrapped(f"tune {settings.name}"):
        interruptibly(lambda: _note_lost(tuner.fit(), todo))


def _note_lost(results: Any, trials: list[Trial]) -> None:
    """A trial whose actor died again and again could not say so itself.

    Its name is that of its folder at Ray's; a result has no ``config`` where nothing was ever reported.
    """
    from raypipe.train.monitor import text_of

    stages = {trial.id: trial.stage for trial in trials}
    for result in (r for r in results if r.error is not None):
        store = Store(stages[PurePosixPath(result.path).name].out)
        if not store.exists(FAILED):
            reason = f"its process ended {STARTS} times: {text_of(result.error)}"
            store.replace(FAILED, (json.dumps({"reason": reason}) + "\n").encode())


def concurrent_trials(settings: TuneSettings, trials: list[Trial]) -> int:
    """How many trials run at once, so that the workers and the validation of each always fit.

    Raises:
        RequestError: the cluster has no room for one.
    """
    import ray

    nodes = machines()
    have = {"CPU": nodes.cpus, "GPU": nodes.gpus} if nodes.known else ray.cluster_resources()
    fits = len(trials)
    for trial in trials:
        workers, chosen = trial.stage.workers, trial.stage.validation
        cpus = workers.num * workers.cpus + chosen.cpus + DRIVER_CPUS
        gpus = workers.num * workers.gpus + chosen.gpus
        require(
            "one trial with its validation",
            Need("worker", workers.num, workers.cpus, workers.gpus),
            Need("validation", 1, chosen.cpus, chosen.gpus),
            Need("watcher", 1, DRIVER_CPUS),
        )
        for name, wanted in (("CPU", cpus), ("GPU", gpus)):
            if wanted and have.get(name, 0.0) < math.inf:
                fits = min(fits, math.floor(have.get(name, 0.0) / wanted + 1e-9))
    return max(1, min(fits, settings.max_concurrent or fits))


def _packed(trial: Trial) -> dict[str, Any]:
    return {"id": trial.id, "stage": trial.stage.model_dump(mode="json")}


def _lengths(settings: TuneSettings, trials: list[Trial]) -> tuple[int, int]:
    """Steps of the longest trial, and those that each is given before it may be stopped."""
    steps, faults = [], []
    for trial in trials:
        try:
            steps.append(plan_stage(trial.stage).steps)
        except RequestError as fault:  # it fails alone, when it is its turn
            faults.append(fault)
    if not steps:
        raise faults[0]
    first = min(t.stage.validation.every_steps or t.stage.checkpoint.every_steps for t in trials)
    return max(steps), settings.grace or min(first, max(steps))


def _commit(run: Run, settings: TuneSettings, outcomes: list[Outcome]) -> None:
    order = ranked(outcomes, settings.mode)
    lines = [json.dumps(o.row(settings), sort_keys=True) for o in order]
    run.store.replace(ROWS, ("\n".join(lines) + "\n").encode())
    winner = winner_of(outcomes, settings.mode)
    if winner is None:
        broken = next((o for o in outcomes if o.status == BROKEN), None)
        why = f": {broken.reason}" if broken else ""
        raise RaypipeError(f"no trial of {settings.name} has a value{why}", f"see {run.store.root}/{ROWS}")
    result: dict[str, Any] = {
        "metric": settings.metric,
        "mode": settings.mode,
        "winner": winner.row(settings) | {"overrides": overrides_of(winner.trial.values)},
        "counts": {s: sum(o.status == s for o in outcomes) for s in sorted({o.status for o in outcomes})},
        "steps": sum(o.steps for o in outcomes),
        "trials": [o.row(settings) for o in order],
    }
    run.store.replace(RESULT, (json.dumps(result, indent=1, sort_keys=True) + "\n").encode())
    picture = search_svg(
        [o.row(settings) for o in order], settings.metric, settings.mode, _log_axes(settings)
    )
    run.store.replace(PLOT, picture.encode())
    broken_count = sum(o.status == BROKEN for o in outcomes)
    stage = outcomes[0].trial.stage
    manifest = Manifest(
        kind="tune",
        files=[run.entry(ROWS, len(lines)), run.entry(RESULT, 0), run.entry(PLOT, 0)],
        totals={"inputs": len(outcomes), "failed": broken_count, "steps": result["steps"]},
        parents=[Run.open(local(part.data), "prepare").lineage() for part in stage.mixture],
        software=software(),
        facts={"winner": winner.trial.id, "value": result["winner"]["value"]},
    )
    run.commit(manifest)


def _log_axes(settings: TuneSettings) -> set[str]:
    return {name for name, axis in settings.space.items() if axis.loguniform is not None}


class _Watching:
    """Says every now and then how far a search is, from the folders of its trials."""

    def __init__(self, settings: TuneSettings, trials: list[Trial], tell: Tell | None) -> None:
        self._settings, self._trials, self._tell = settings, trials, tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="search", daemon=True)

    def __enter__(self) -> None:
        if self._tell:
            self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._tell:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            if self._tell:
                self._tell(
                    line_of([outcome_of(t, self._settings.metric) for t in self._trials], self._settings)
                )


def line_of(outcomes: list[Outcome], settings: TuneSettings) -> str:
    """A search in one line: how many trials are over, steps so far, the best so far."""
    over = sum(o.over or o.status == BROKEN for o in outcomes)
    line = f"{over}/{len(outcomes)} trials over, {sum(o.steps for o in outcomes)} steps"
    failed = sum(o.status == BROKEN for o in outcomes)
    valued = [(o, o.best(settings.mode)) for o in outcomes]
    sign = 1.0 if settings.mode == "min" else -1.0
    best = min(((sign * b[1], i) for i, (_, b) in enumerate(valued) if b), default=None)
    if best is not None:
        chosen = ", ".join(overrides_of(outcomes[best[1]].trial.values))
        line += f", best {settings.metric} {sign * best[0]:.4f} by {chosen}"
    return line + (f", {failed} failed" if failed else "")
