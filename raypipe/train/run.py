"""The train verb: one stage as a Ray Train job with DeepSpeed, or its continuation."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from raypipe.cluster import require, unwrapped
from raypipe.errors import RaypipeError, RequestError
from raypipe.settings import StageSettings, local
from raypipe.store.run import FileEntry, Manifest, Run
from raypipe.train.plan import StagePlan, plan_stage

StepProgress = Callable[[dict[str, Any]], None]


def train(settings: StageSettings, *, progress: StepProgress | None = None) -> dict[str, Any]:
    """Trains one stage to its end; a finished stage is left as it is.

    Args:
        progress: called with the newest row of metrics.jsonl about once a second.

    Returns:
        the manifest's totals and facts.
    """
    settings = _absolute(settings)
    plan = plan_stage(settings)
    run = Run.start(settings.out, "train", settings)
    if not run.complete:
        require(
            settings.workers.num * settings.workers.cpus,
            settings.workers.num * settings.workers.gpus,
            "the stage",
        )
        with _watching(run, progress):
            _fit(plan, settings)
        _commit(run, plan, settings)
    manifest = run.manifest
    return {**manifest["totals"], **manifest["facts"], "model": f"{settings.out}/model"}


def _absolute(settings: StageSettings) -> StageSettings:
    """Paths that mean the same in the workers, whose working directory is another."""
    start = settings.start
    if start.model is not None:
        start = start.model_copy(update={"model": local(start.model)})
    return settings.model_copy(update={"out": local(settings.out), "start": start})


def _fit(plan: StagePlan, settings: StageSettings) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers = settings.workers
    resources = {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}
    trainer = TorchTrainer(
        _on_worker,
        train_loop_config={"plan": plan, "settings": settings.model_dump(mode="json")},
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo", timeout_s=600),
        scaling_config=ScalingConfig(
            num_workers=workers.num, use_gpu=bool(workers.gpus), resources_per_worker=resources
        ),
        run_config=RunConfig(
            # Position and weights live in our own committed checkpoints, so each start is a new Ray run.
            name=f"{settings.name}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{settings.out}/ray",
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )
    with unwrapped(f"train {settings.name}"):
        _interruptibly(trainer.fit)
        _interruptibly(lambda: _export(plan, settings))


def _export(plan: StagePlan, settings: StageSettings) -> None:
    """In a task of its own: the model is built whole, which a worker with a part of it cannot do."""
    import ray

    from raypipe.train.export import export_run

    task = ray.remote(num_cpus=settings.workers.cpus, max_retries=3)(export_run)
    ray.get(task.remote(plan, settings))


def _interruptibly(work: Callable[[], Any]) -> None:
    """Does the work in a thread of its own, so that Ctrl-C and a stop of the job reach us.

    In the main thread Ray Train takes over SIGINT and ends the process itself, with exit code 1.
    """
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as fault:
            done.set_exception(fault)

    threading.Thread(target=run, daemon=True, name="ray-train").start()
    done.result()


def _on_worker(config: dict[str, Any]) -> None:
    """Runs in each Ray Train worker process."""
    from raypipe.train.engine import prepare_environment

    settings = StageSettings.model_validate(config["settings"])
    prepare_environment(settings.workers.gpus)
    import ray.train
    import torch

    from raypipe.store.files import Store
    from raypipe.train.checkpoints import Checkpoints
    from raypipe.train.loop import Worker, train_on_rank
    from raypipe.train.status import Status

    torch.set_num_threads(settings.workers.threads)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = torch.device("cuda", context.get_local_rank()) if settings.workers.gpus else torch.device("cpu")

    def gather(value: Any) -> list[Any]:
        values: list[Any] = [None] * world
        torch.distributed.all_gather_object(values, value)
        return values

    chosen = settings.checkpoint
    store = Store(settings.out)
    checkpoints = Checkpoints(store, rank, world, chosen.keep, gather, asynchronous=chosen.asynchronous)
    train_on_rank(config["plan"], settings, Worker(rank, world, device), checkpoints, Status())


def _commit(run: Run, plan: StagePlan, settings: StageSettings) -> None:
    names = run.store.list("model")
    if "model/config.json" not in names and "model/adapter_config.json" not in names:
        raise RaypipeError(f"training ended without a model in {run.store.root}/model")
    rows = [json.loads(line) for line in run.store.read("metrics.jsonl").decode().splitlines()]
    manifest = Manifest(
        kind="train",
        files=[*(run.entry(n, 0) for n in [*names, "metrics.jsonl"]), *_ledger(run)],
        totals={"inputs": plan.samples, "steps": plan.steps},
        parents=[*plan.parents, *_starting_point(settings)],
        software=_software(),
        facts={
            "first_loss": rows[0]["loss"],
            "last_loss": rows[-1]["loss"],
            "seconds": sum(r["step_s"] for r in rows),
            "slots": [plan.samples],  # of the ledger, in each epoch; the last number is of all later ones
        },
    )
    run.commit(manifest)


def _ledger(run: Run) -> list[FileEntry]:
    """The segments that lead to the last checkpoint."""
    from raypipe.train.checkpoints import records

    chain = records(run.store)[-1]["ledger"]
    return [FileEntry(s["path"], s["rows"], s["bytes"], s["sha256"]) for s in chain]


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
