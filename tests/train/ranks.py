"""The training loop on several processes of this machine, without Ray: many short runs in one group."""

from __future__ import annotations

import gc
import itertools
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.store.journal import rows as rows_of
from raypipe.train.checkpoints import Checkpoints
from raypipe.train.meter import TIMED
from raypipe.train.metrics import METRICS
from raypipe.train.plan import StagePlan, plan_stage
from raypipe.train.status import Status

GROUP_S = 600.0
PRELOADED = ["raypipe.train.loop", "deepspeed", "deepspeed.runtime.zero.muon.original_muon", "peft"]
PROJECTOR = {"multi_modal_projector": 2e-3}
PARTS: dict[str, dict[str, Any]] = {
    "full": {
        "rates": {"language_model": 1e-3, **PROJECTOR, "image_tower": 5e-4, "video_tower": 5e-4},
    },
    "projector": {"rates": PROJECTOR},
    "lora": {"rates": PROJECTOR, "lora": {"r": 4, "alpha": 8, "rate": 1e-2, "dropout": 0.1}},
}


class Stop(Exception):
    """The end of a run in the middle of it."""


class Stopping(Status):
    """Ends the loop before it begins a step: what was committed by then is all that is left."""

    def __init__(self, before: int | None) -> None:
        super().__init__()
        self._before = before

    def at(self, phase: str, **more: Any) -> None:
        super().at(phase, **more)
        if phase == "data" and self.step == self._before:
            raise Stop


@dataclass(frozen=True)
class Case:
    """One run, or several of one stage in a row, each stopped before a step of ``stops``."""

    name: str
    values: dict[str, Any]
    stops: tuple[int | None, ...] = (None,)
    harm: str = ""  # of harms, by name


def stage(out: Path, data: Path, start: dict[str, Any], parts: str, zero: int, **more: Any) -> dict[str, Any]:
    """Settings of a stage with a checkpoint after every step, as plain values."""
    values = {
        "name": "case",
        "out": str(out),
        "start": start,
        "mixture": [{"data": str(data)}],
        "global_batch": 3,  # of two ranks one is filled up in every step
        "micro_batch": 1,
        "precision": "fp32",
        "schedule": {"warmup_ratio": 0.2},
        "steps": 4,
        "optimizer": {"weight_decay": 0.05},
        "deepspeed": {"zero": zero},
        "checkpoint": {"every_steps": 1, "keep": 100, "asynchronous": False},
        "gradient_checkpointing": False,
        **PARTS[parts],
    }
    return {**values, **more}


def group(world: int, folder: Path, cases: Sequence[Case], target: Callable[..., Any] | None = None) -> None:
    """Runs the cases, one after the other, on ``world`` new processes; raises what they raise."""
    from torch import multiprocessing

    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["DS_ACCELERATOR"] = "cpu"
    context = multiprocessing.get_context("forkserver")  # imports once what each rank would for ten seconds
    context.set_forkserver_preload(PRELOADED)
    ranks = [
        context.Process(target=_rank, args=(rank, world, port, folder, tuple(cases), target or run))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    end = time.monotonic() + GROUP_S
    try:
        while any(p.is_alive() for p in ranks) and time.monotonic() < end:
            if any(p.exitcode not in (None, 0) for p in ranks):
                time.sleep(1.0)  # the others may have something to say as well
                break
            time.sleep(0.02)
    finally:
        stuck = [rank for rank, process in enumerate(ranks) if process.is_alive()]
        for process in ranks:
            process.kill()
            process.join()
    said = "\n".join(f.read_text() for f in sorted(folder.glob("fault-*.txt")))
    assert not said, said
    assert not stuck, f"ranks {stuck} of {world} did not end"
    assert all(p.exitcode == 0 for p in ranks), [p.exitcode for p in ranks]


def _rank(rank: int, world: int, port: int, folder: Path, cases: Sequence[Case], target: Any) -> None:
    sys.stdout = open(folder / f"out-{rank}.txt", "w")  # noqa: SIM115 - until the process ends
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    gc.freeze()  # DeepSpeed collects garbage at many points of its start: not over all that is imported
    torch.distributed.init_process_group("gloo")
    try:
        for case in cases:
            began, used = time.monotonic(), time.process_time()
            target(case, rank, world)
            took = f"{time.monotonic() - began:.1f} s, {time.process_time() - used:.1f} s of it on a core"
            print(f"{case.name}: {took}", flush=True)
    except BaseException:
        (folder / f"fault-{rank}.txt").write_text(f"rank {rank}\n{traceback.format_exc()}")
        os._exit(1)
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


def run(case: Case, rank: int, world: int) -> None:
    """One case on one rank."""
    settings = StageSettings.model_validate(case.values)
    plan = plan_stage(settings)
    for stop in case.stops:
        once(plan, settings, rank, world, Stopping(stop))


def once(plan: StagePlan, settings: StageSettings, rank: int, world: int, status: Status) -> None:
    """One start of a stage, to its end or to where the status stops it."""
    from raypipe.train.loop import train_on_rank
    from raypipe.train.work import Worker

    def gather(value: Any) -> list[Any]:
        values: list[Any] = [None] * world
        torch.distributed.all_gather_object(values, value)
        return values

    chosen = settings.checkpoint
    store = Store(settings.out)
    checkpoints = Checkpoints(store, rank, world, chosen.keep, gather, asynchronous=chosen.asynchronous)
    try:
        train_on_rank(plan, settings, Worker(rank, world, torch.device("cpu")), checkpoints, status)
    except Stop:
        checkpoints.wait()
    torch.distributed.barrier()


def metrics(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows_of(Store(str(out)), METRICS)]


@dataclass
class State:
    """All that a checkpoint holds, whole."""

    tensors: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    updates: int = 0


def state(out: Path, step: int) -> State:
    """What the checkpoint after ``step`` steps holds: (kind, parameter) -> all its elements, flat."""
    from safetensors.torch import load_file

    record = json.loads((out / f"checkpoints/step-{step:08d}.json").read_text())
    pieces: dict[tuple[str, str], list[tuple[int, torch.Tensor]]] = {}
    for name in record["files"]:
        for label, tensor in load_file(out / record["folder"] / name).items():
            kind, _, rest = label.partition("/")
            parameter, _, offset = rest.rpartition("@")
            pieces.setdefault((kind, parameter), []).append((int(offset), tensor))
    whole = State(updates=record["updates"])
    for place, found in pieces.items():
        found.sort(key=lambda p: p[0])
        assert all(a + len(t) == b for (a, t), (b, _) in itertools.pairwise(found)), place
        whole.tensors[place] = torch.cat([t for _, t in found])
    return whole


def apart(one: State, other: State) -> float:
    """The largest difference between the weights of two checkpoints."""
    assert one.tensors.keys() == other.tensors.keys()
    return max(float((t - other.tensors[p]).abs().max()) for p, t in one.tensors.items() if p[0] == "master")


def same(one: State, other: State) -> bool:
    """Whether two checkpoints hold the same, bit for bit."""
    alike = one.tensors.keys() == other.tensors.keys() and one.updates == other.updates
    return alike and all(torch.equal(t, other.tensors[p]) for p, t in one.tensors.items())
