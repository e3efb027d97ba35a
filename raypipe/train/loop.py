"""What each training worker does: build, restore, step, checkpoint."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raypipe.errors import RaypipeError
from raypipe.model.splice import Batch
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.train import engine as ds
from raypipe.train import scored
from raypipe.train.checkpoints import Checkpoints
from raypipe.train.collate import Row, collate, shares
from raypipe.train.examples import Examples
from raypipe.train.export import export
from raypipe.train.loader import Ahead
from raypipe.train.metrics import MetricLog
from raypipe.train.mixture import Mixture
from raypipe.train.order import Order, rate_factor
from raypipe.train.plan import StagePlan
from raypipe.train.start import build_model
from raypipe.train.status import Status


@dataclass
class Worker:
    """One rank's place in the run."""

    rank: int
    world: int
    device: torch.device


@dataclass
class Work:
    """One rank's part of an optimizer step: its micro-batches, and what the loader counted."""

    batches: list[Batch]
    numbers: tuple[int, ...]  # samples of the whole global batch
    cut: int = 0  # of this rank's samples
    dropped: int = 0


def train_on_rank(
    plan: StagePlan, settings: StageSettings, worker: Worker, checkpoints: Checkpoints, status: Status
) -> None:
    """The whole stage on one rank; returns when the last checkpoint is committed."""
    mixture = Mixture(plan.data)
    loaded = build_model(settings, mixture)
    dtype = ds.precision_of(settings)
    loaded.model.to(worker.device, dtype)
    engine = ds.start_engine(loaded, settings)
    first = 0
    with checkpoints.newest() as folder:
        if folder is not None:
            first = int(ds.load_state(engine, folder)["step"])
    examples = Examples(mixture, loaded, settings)
    lengths = mixture.lengths() if settings.group_by_length else None
    order = Order(len(mixture), settings.global_batch, settings.seed, lengths)

    def make(step: int) -> Work:
        return work_of(examples, order.batch(step), worker, settings.micro_batch, dtype)

    log = MetricLog(Store(settings.out), first, worker.rank == 0)
    ahead = Ahead(make, first, plan.steps)
    try:
        for step in range(first, plan.steps):
            status.at("data", step=step, micro=0)
            log.add(_step(engine, ahead, step, plan, settings, worker, status))
            done = step + 1
            if done % settings.checkpoint.every_steps == 0 and done < plan.steps:
                log.flush()
                status.at("checkpoint")
                _checkpoint(engine, checkpoints, done)
                scored.hold(Store(settings.out), done, settings, plan.steps, status)
    finally:
        ahead.close()
    log.flush()
    _checkpoint(engine, checkpoints, plan.steps)
    if worker.rank == 0:
        export(loaded, settings, plan)
    status.at("done")


def work_of(
    examples: Examples, numbers: Sequence[int], worker: Worker, micro: int, dtype: torch.dtype
) -> Work:
    """This rank's share of a global batch, cut into micro-batches.

    A rank that has no rows left for one is given a row without labels, so that every rank takes part in
    every reduction and nothing is counted twice.
    """
    batches, cut = [], 0
    for share in shares(len(numbers), worker.rank, worker.world, micro):
        rows: list[Row] = [(examples[numbers[i]],) for i in share]
        cut += sum(e.cut for row in rows for e in row)
        stand_in = rows or [(examples[numbers[0]],)]
        batches.append(collate(stand_in, dtype, worker.device, counts=bool(rows)))
    return Work(batches, tuple(numbers), cut)


def _step(
    engine: Any,
    ahead: Ahead,
    step: int,
    plan: StagePlan,
    settings: StageSettings,
    worker: Worker,
    status: Status,
) -> dict[str, Any]:
    started = time.monotonic()
    _seed(settings.seed, step, worker.rank)
    work: Work = ahead.take()
    waited = time.monotonic() - started
    schedule = settings.schedule
    rate = ds.set_rates(engine, rate_factor(step, plan.steps, schedule.warmup_ratio, schedule.kind))
    counted = [
        sum(b.learned for b in work.batches),
        sum(int(b.mask_BL.sum()) for b in work.batches),
        sum(b.ids_BL.numel() for b in work.batches),
        work.cut,
        work.dropped,
    ]
    counts = _sum(torch.tensor(counted, dtype=torch.float64, device=worker.device))
    learned = max(1.0, float(counts[0]))
    # DeepSpeed averages over ranks; the loss is a mean over the labels of all of them.
    scale = worker.world / learned
    total = torch.zeros(1, dtype=torch.float64, device=worker.device)
    for micro, batch in enumerate(work.batches):
        status.at("forward", micro=micro, samples=tuple(s for row in batch.samples for s in row))
        loss, _ = engine(batch)
        total += loss.detach().double()
        status.at("backward")
        ds.backward(engine, loss * scale, last=micro == len(work.batches) - 1)
    status.at("step")
    loss_mean = float(_sum(total)) / learned
    if not torch.isfinite(torch.tensor(loss_mean)):
        raise RaypipeError(
            f"the loss is not finite at step {step + 1}", "lower the rates, or look at the batch's samples"
        )
    return {
        "step": step + 1,
        "steps": plan.steps,
        "epoch": round((step + 1) / plan.steps_per_epoch, 4),
        "samples": len(work.numbers),
        "tokens": int(counts[1]),
        "slots": int(counts[2]),
        "learned_tokens": int(counts[0]),
        "cut": int(counts[3]),
        "dropped": int(counts[4]),
        "loss": loss_mean,
        "lr": rate,
        "grad_norm": float(engine.get_global_grad_norm() or 0.0),
        "step_s": round(time.monotonic() - started, 4),
        "data_wait_s": round(waited, 4),
    }


def _checkpoint(engine: Any, checkpoints: Checkpoints, step: int) -> None:
    with tempfile.TemporaryDirectory(prefix="raypipe-checkpoint-") as folder:
        ds.save_state(engine, Path(folder), {"step": step})
        checkpoints.commit(Path(folder), step)


def _seed(seed: int, step: int, rank: int) -> None:
    """Dropout and the like: a function of seed, position and rank, so that a resumed run repeats itself."""
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank)


def _sum(value: torch.Tensor) -> torch.Tensor:
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(value)
    return value
