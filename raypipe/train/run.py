"""The train verb: one stage as a Ray Train job with DeepSpeed, or its continuation."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

from raypipe.cluster import require
from raypipe.errors import RaypipeError, RequestError
from raypipe.settings import StageSettings, local
from raypipe.store.run import Manifest, Run
from raypipe.train.board import Watched
from raypipe.train.fit import fit
from raypipe.train.plan import StagePlan, plan_stage

StepProgress = Callable[[dict[str, Any]], None]
log = logging.getLogger(__name__)


def train(
    settings: StageSettings,
    *,
    progress: StepProgress | None = None,
    tell: Callable[[str], None] = log.warning,
) -> dict[str, Any]:
    """Trains one stage to its end; a finished stage is left as it is.

    Args:
        progress: called with the newest row of metrics.jsonl about once a second.
        tell: called with one line when workers stall or start again.

    Returns:
        the manifest's totals and facts.
    """
    settings = _absolute(settings)
    plan = plan_stage(settings)
    run = Run.start(settings.out, "train", settings)
    if not run.complete:
        least = settings.workers.min_num or settings.workers.num
        require(least * settings.workers.cpus, least * settings.workers.gpus, "the stage")
        with _watching(run, progress):
            seen = fit(plan, settings, tell)
        _commit(run, plan, settings, seen)
    manifest = run.manifest
    return {**manifest["totals"], **manifest["facts"], "model": f"{settings.out}/model"}


def _absolute(settings: StageSettings) -> StageSettings:
    """Paths that mean the same in the workers, whose working directory is another."""
    start = settings.start
    if start.model is not None:
        start = start.model_copy(update={"model": local(start.model)})
    return settings.model_copy(update={"out": local(settings.out), "start": start})


def _commit(run: Run, plan: StagePlan, settings: StageSettings, seen: Watched) -> None:
    names = run.store.list("model")
    if "model/config.json" not in names and "model/adapter_config.json" not in names:
        raise RaypipeError(f"training ended without a model in {run.store.root}/model")
    rows = [json.loads(line) for line in run.store.read("metrics.jsonl").decode().splitlines()]
    manifest = Manifest(
        kind="train",
        files=[run.entry(n, 0) for n in [*names, "metrics.jsonl"]],
        totals={"inputs": plan.samples, "steps": plan.steps},
        parents=[*plan.parents, *_starting_point(settings)],
        software=_software(),
        facts={
            "first_loss": rows[0]["loss"],
            "last_loss": rows[-1]["loss"],
            "seconds": sum(r["step_s"] for r in rows),
            "restarts": seen.attempts - 1,
            "hangs": seen.hangs,
        },
    )
    run.commit(manifest)


def _starting_point(settings: StageSettings) -> list[dict[str, str]]:
    if settings.start.model is None:
        return []
    try:
        return [Run.open(local(settings.start.model), "train").lineage()]
    except RequestError:
        return [{"run": settings.start.model, "kind": "model", "manifest_sha256": ""}]


def _software() -> dict[str, str]:
    from importlib.metadata import version

    return {p: version(p) for p in ("torch", "transformers", "deepspeed", "peft", "ray")}


class _watching:
    """Calls back with the newest metrics row while a stage runs."""

    def __init__(self, run: Run, progress: StepProgress | None) -> None:
        self._run, self._progress, self._stop = run, progress, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if self._progress:
            self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._progress:
            self._thread.join()
            self._show()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self._show()

    def _show(self) -> None:
        store = self._run.store
        if self._progress and store.exists("metrics.jsonl"):
            lines = store.read("metrics.jsonl").decode().splitlines()
            if lines:
                self._progress(json.loads(lines[-1]))
