"""The function that Ray Train runs in each worker process: the rank's place, its pulse, the loop."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from raypipe.errors import RaypipeError
from raypipe.settings import StageSettings
from raypipe.store.process import start_of
from raypipe.train.board import LEAVE, packed
from raypipe.train.pulse import Pulse
from raypipe.train.status import Status

POST_S = 10.0  # for an answer of the board
log = logging.getLogger(__name__)


def on_worker(config: dict[str, Any]) -> None:
    """Runs one rank; returns at once where the run is over already.

    Args:
        config: ``plan``, ``settings`` (plain values), ``board``, the name of the run's board, and ``marker``
            of the run folder.
    """
    import ray
    import ray.train

    settings = StageSettings.model_validate(config["settings"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    board = ray.get_actor(config["board"])
    key = ray.util.get_current_placement_group().id.hex()  # each group of workers has one of its own
    place = {
        "host": socket.gethostname(),
        "node": ray.get_runtime_context().get_node_id(),
        "pid": os.getpid(),
        "started": start_of(os.getpid()) or "",
    }
    if ray.get(board.enter.remote(key, rank, world, place)) == LEAVE:
        return
    status = Status()
    status.mirror()

    def post(report: dict[str, Any]) -> str:
        return ray.get(board.post.remote(key, rank, report), timeout=POST_S)

    stall_s = settings.workers.stall_s
    try:
        config["marker"].check()
        with Pulse(status, post, every_s=min(1.0, stall_s / 10), stacks_s=stall_s / 2):
            _train(config["plan"], settings, rank, world, context.get_local_rank(), status)
    except RaypipeError as fault:
        if plain := packed(fault):
            ray.get(board.put_fault.remote(key, rank, plain))
        raise
    finally:
        status.unmirror()


def _train(plan: Any, settings: StageSettings, rank: int, world: int, local: int, status: Status) -> None:
    from raypipe.train.engine import prepare_environment

    prepare_environment(settings.workers.gpus)
    import torch

    from raypipe.gauges import run_of
    from raypipe.store.files import Store
    from raypipe.train import scored
    from raypipe.train.checkpoints import Checkpoints
    from raypipe.train.gauges import RayMetrics
    from raypipe.train.loop import Worker, train_on_rank
    from raypipe.train.tensorboard import TensorBoard

    torch.set_num_threads(settings.workers.threads)
    device = torch.device("cuda", local) if settings.workers.gpus else torch.device("cpu")

    def gather(value: Any) -> list[Any]:
        values: list[Any] = [None] * world
        torch.distributed.all_gather_object(values, value)
        return values

    store = Store(settings.out)

    chosen = settings.checkpoint
    checkpoints = Checkpoints(
        store,
        rank,
        world,
        chosen.keep,
        gather,
        asynchronous=chosen.asynchronous,
        protect=lambda steps: scored.protected(store, steps, settings),
    )
    gpu_bytes = (lambda: torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
    metrics = RayMetrics(run_of(settings.out), lambda: status.checkpoints, gpu_bytes)
    sinks = (TensorBoard(Store(settings.out)), metrics)
    here = Worker(rank, world, device, sinks if rank == 0 else ())
    train_on_rank(plan, settings, here, checkpoints, status)
