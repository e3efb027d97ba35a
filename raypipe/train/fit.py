"""A stage's workers under Ray Train: started, watched, started again, and what is said when they end."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from raypipe.cluster import unwrapped
from raypipe.errors import RaypipeError, StoppedError
from raypipe.settings import StageSettings
from raypipe.shared import marked
from raypipe.store.files import Store
from raypipe.train.board import Watched, unpacked
from raypipe.train.plan import StagePlan
from raypipe.train.stalls import Limits
from raypipe.train.stop import Stop, trainer_that_stops

if TYPE_CHECKING:
    from raypipe.train.monitor import Monitor, Tell

log = logging.getLogger(__name__)
SLACK_S = 60  # a collective waits this much longer than a stall takes to be reported
RESIZE_S = 600.0  # a new start loses what lies behind the last checkpoint, so growth may wait


def fit(plan: StagePlan, settings: StageSettings, tell: Tell, stop: Stop | None = None) -> Watched:
    """Trains until the last checkpoint is there; what can be retried is, ``workers.max_failures`` times.

    Args:
        tell: called with a line for the user when workers stall or start again.
        stop: with it another thread can end the workers.

    Raises:
        StoppedError: it was ended by ``stop``.
        RaypipeError: the workers' own error, or one that names the rank that ended and how.
    """
    from raypipe.train.monitor import Monitor

    workers = settings.workers
    name = f"{settings.name}-{uuid.uuid4().hex[:8]}"
    limits = Limits(workers.stall_s, workers.start_s)
    board = f"raypipe-board-{name}"
    with (
        marked(settings.out) as marker,
        Monitor(board, Store(settings.out), limits, tell) as monitor,
    ):
        loop = {"plan": plan, "settings": settings.model_dump(mode="json"), "board": board, "marker": marker}
        trainer = _trainer(settings, name, loop, stop)
        with unwrapped(f"train {settings.name}"):
            try:
                interruptibly(trainer.fit)
            except Exception as fault:
                if stop and stop.asked:
                    remedy = "the same command continues it"
                    raise StoppedError(f"train {settings.name} was stopped", remedy) from None
                _explain(monitor, settings, fault)
                raise
        if plain := _view(monitor)["fault"]:  # an attempt that saw it ended without an error of its own
            raise unpacked(plain)
        return monitor.seen


def _trainer(settings: StageSettings, name: str, loop: dict[str, Any], stop: Stop | None) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from raypipe.train.meeting import Meeting
    from raypipe.train.monitor import Failures
    from raypipe.train.worker import on_worker

    workers = settings.workers
    resources = {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}
    patience = int(max(workers.stall_s, workers.start_s)) + SLACK_S
    return trainer_that_stops(stop or Stop())(
        on_worker,
        train_loop_config=loop,
        torch_config=Meeting(backend="nccl" if workers.gpus else "gloo", timeout_s=patience),
        scaling_config=ScalingConfig(
            num_workers=(workers.min_num, workers.num) if workers.min_num else workers.num,
            use_gpu=bool(workers.gpus),
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=RESIZE_S,
        ),
        run_config=RunConfig(
            # Position and weights live in our own committed checkpoints, so each start is a new Ray run.
            name=name,
            storage_path=f"{settings.out}/ray",
            failure_config=FailureConfig(max_failures=workers.max_failures),
            callbacks=[Failures(loop["board"])],
        ),
    )


def interruptibly(work: Callable[[], Any]) -> None:
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


def _explain(monitor: Monitor, settings: StageSettings, fault: Exception) -> None:
    """Raises what the board knows of the end: the workers' own error, or who ended and how."""
    view = _view(monitor)
    if view["fault"]:
        raise unpacked(view["fault"]) from fault
    again = f"{monitor.seen.attempts} attempt(s) of {settings.workers.max_failures + 1} are used up"
    remedy = "run the same command again: it continues from the last checkpoint"
    if view["failures"]:
        rank, reason = next(iter(view["failures"].items()))
        host = next((r["host"] for r in view["ranks"] if r["rank"] == rank), "?")
        raise RaypipeError(
            f"train {settings.name}: rank {rank} on {host} ended: {reason}; {again}", remedy
        ) from fault
    if view["ended"] and monitor.seen.hangs:
        last = f"{settings.out}/{monitor.seen.hangs[-1]}"
        raise RaypipeError(f"train {settings.name}: stuck, see {last}; {again}", remedy) from fault


def _view(monitor: Monitor) -> dict[str, Any]:
    """The board's last word; nothing where it is gone, as with a cluster that broke down."""
    try:
        return monitor.view()
    except Exception as gone:
        log.warning("the board cannot be read: %s", gone)
        return {"fault": None, "failures": {}, "ranks": [], "ended": False}
