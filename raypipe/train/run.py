"""The train verb: one stage as a Ray Train job with DeepSpeed, or its continuation."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from raypipe.capacity import Need
from raypipe.cluster import require, require_shared, unwrapped
from raypipe.errors import RaypipeError, RequestError
from raypipe.settings import StageSettings, local, located
from raypipe.settings.stage import read_by
from raypipe.shared import marked
from raypipe.store.journal import join, newest
from raypipe.store.run import FileEntry, Manifest, Run
from raypipe.train import scored
from raypipe.train.board import Watched
from raypipe.train.checks import check_start
from raypipe.train.curves import PICTURE, picture, validation_rows
from raypipe.train.fit import fit, interruptibly
from raypipe.train.metrics import METRICS
from raypipe.train.plan import StagePlan, plan_stage
from raypipe.train.stop import Stop
from raypipe.train.validate import check_validation, validating

StepProgress = Callable[[dict[str, Any]], None]
log = logging.getLogger(__name__)


def train(
    settings: StageSettings,
    *,
    progress: StepProgress | None = None,
    tell: Callable[[str], None] = log.warning,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Trains one stage to its end; a finished stage is left as it is.

    Args:
        progress: called with the newest row of metrics.jsonl about once a second.
        tell: called with one line when workers stall or start again.
        stop: with it the stage can be ended from another thread, which then also lets workers go that wait
            for a score.

    Returns:
        the manifest's totals and facts.
    """
    check_validation(settings)
    settings = located(settings)
    plan = plan_stage(settings)
    if not Run(settings.out).complete:  # what a finished stage started from may be gone
        check_start(settings)
        require_shared([settings.out], read_by(settings))
    run = Run.start(settings.out, "train", settings)
    if not run.complete:
        _require_room(settings)
        watching, led = _watching(run, progress), stop is not None
        with watching as say, validating(run, plan, settings, say, led=led):
            seen = fit(plan, settings, tell, stop)
        _export(run, plan, settings)
        _commit(run, plan, settings, seen)
    manifest = run.manifest
    return {**manifest["totals"], **manifest["facts"], "model": f"{settings.out}/model"}


def _require_room(settings: StageSettings) -> None:
    """Refuses a stage that the cluster can never hold."""
    workers, chosen = settings.workers, settings.validation
    ranks = Need("worker", workers.min_num or workers.num, workers.cpus, workers.gpus)
    require("the stage", ranks)
    if scored.wanted(settings):
        scoring = Need("task", 1, chosen.cpus, chosen.gpus)
        require("validation", scoring)
        if chosen.wait:  # the workers wait for what is scored beside them
            require("the stage with its validation", ranks, scoring)


def _commit(run: Run, plan: StagePlan, settings: StageSettings, seen: Watched) -> None:
    names = run.store.list("model")
    if "model/config.json" not in names and "model/adapter_config.json" not in names:
        raise RaypipeError(f"training ended without a model in {run.store.root}/model")
    rows = join(run.store, METRICS)
    run.store.replace(PICTURE, picture(rows, validation_rows(run.store), settings.name))
    manifest = Manifest(
        kind="train",
        files=[
            *(run.entry(n, 0) for n in [*names, f"{METRICS}.jsonl", PICTURE, *scored.files(run.store)]),
            *_ledger(run),
        ],
        totals={"inputs": plan.samples, "steps": plan.steps},
        parents=[*plan.parents, *_starting_point(settings)],
        software=software(),
        facts=_facts(rows, seen) | {"epoch_samples": plan.epoch_samples, "each_once": plan.each_once},
    )
    run.commit(manifest)


def _export(run: Run, plan: StagePlan, settings: StageSettings) -> None:
    """In a task of its own: the model is built whole, which a worker with a part of it cannot do."""
    import ray

    from raypipe.train.export import export_run

    step = scored.best_step(run.store) if settings.export == "best" else None
    # DEFAULT: not inside the placement group of a search's trial, which has no room for it.
    options: dict[str, Any] = {"num_cpus": settings.workers.cpus, "scheduling_strategy": "DEFAULT"}
    options["name"] = f"export {settings.name}"
    with unwrapped(f"export of {settings.name}"), marked(settings.out) as marker:
        task = ray.remote(max_retries=3)(marker.before(export_run)).options(**options)
        interruptibly(lambda: ray.get(task.remote(plan, settings, step)))


def _ledger(run: Run) -> list[FileEntry]:
    """The segments that lead to the last checkpoint."""
    from raypipe.train.checkpoints import records

    chain = records(run.store)[-1]["ledger"]
    return [FileEntry(s["path"], s["rows"], s["bytes"], s["sha256"]) for s in chain]


def _facts(rows: list[dict[str, Any]], seen: Watched) -> dict[str, Any]:
    """What the manifest tells of the training itself; over all attempts, of earlier drivers too."""

    def total(name: str) -> float:
        return sum(row.get(name) or 0 for row in rows)

    timed = [row for row in rows if row.get("mfu") is not None]
    worked = sum(row["mfu"] * row["step_s"] for row in timed)
    return {
        "first_loss": rows[0]["loss"],
        "last_loss": rows[-1]["loss"],
        "seconds": total("step_s"),
        "tokens": total("tokens"),
        "tokens_s": total("tokens") / total("step_s"),
        "mfu": worked / sum(row["step_s"] for row in timed) if timed else None,
        "mfu_convention": next((r["mfu_convention"] for r in reversed(rows) if "mfu_convention" in r), ""),
        "data_wait": total("data_wait_s") / total("step_s"),
        "cut": total("cut"),
        "dropped": total("dropped"),
        "worlds": sorted({row["world"] for row in rows if "world" in row}),
        "restarts": max([seen.attempts, *(row.get("attempt", 1) for row in rows)]) - 1,
        "hangs": seen.hangs,
    }


def _starting_point(settings: StageSettings) -> list[dict[str, str]]:
    if settings.start.model is None:
        return []
    try:
        return [Run.open(local(settings.start.model), "train").lineage()]
    except RequestError:
        return [{"run": settings.start.model, "kind": "model", "manifest_sha256": ""}]


def software() -> dict[str, str]:
    from importlib.metadata import version

    return {p: version(p) for p in ("torch", "transformers", "deepspeed", "peft", "ray")}


class _watching:
    """Calls back with the newest metrics row while a stage runs."""

    def __init__(self, run: Run, progress: StepProgress | None) -> None:
        self._run, self._progress, self._stop = run, progress, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._said = ""

    def __enter__(self) -> Callable[[str], None]:
        if self._progress:
            self._thread.start()
        return self._say

    def _say(self, line: str) -> None:
        self._said = line

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._progress:
            self._thread.join()
            self._show()

    def _watch(self) -> None:
        # On S3 a look is two requests.
        while not self._stop.wait(1.0 if self._run.store.is_local else 5.0):
            self._show()

    def _show(self) -> None:
        row = newest(self._run.store, METRICS)
        if self._progress and row is not None:
            self._progress(row | ({"validation": self._said} if self._said else {}))
