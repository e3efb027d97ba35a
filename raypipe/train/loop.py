"""What each training worker does: build, restore, step, checkpoint."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raypipe.errors import RaypipeError
from raypipe.model.build import LoadedModel
from raypipe.model.splice import Batch
from raypipe.records import MediumKind
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.train import engine as ds
from raypipe.train import scored
from raypipe.train.checkpoints import Checkpoints
from raypipe.train.examples import Examples
from raypipe.train.export import export
from raypipe.train.flops import flops_of, peak_of
from raypipe.train.loader import Ahead, Steps
from raypipe.train.meter import Meter
from raypipe.train.metrics import MetricLog
from raypipe.train.mixture import Mixture
from raypipe.train.order import order_of, rate_factor
from raypipe.train.plan import StagePlan
from raypipe.train.start import build_model
from raypipe.train.status import Status
from raypipe.train.work import Work, Worker


def train_on_rank(
    plan: StagePlan, settings: StageSettings, worker: Worker, checkpoints: Checkpoints, status: Status
) -> None:
    """The whole stage on one rank; returns when the last checkpoint is committed."""
    mixture = Mixture(plan.data, settings.cache)
    loaded = build_model(settings, mixture)
    dtype = ds.precision_of(settings)
    loaded.model.to(worker.device, dtype)
    engine = ds.start_engine(loaded, settings)
    first = 0
    with checkpoints.newest() as folder:
        if folder is not None:
            first = int(ds.load_state(engine, folder)["step"])
    examples = Examples(mixture, loaded, settings)
    examples.reading = status.reads
    order = order_of(mixture, plan, settings)
    steps = Steps(examples, order, worker, settings, dtype, plan.steps)
    log = MetricLog(
        Store(settings.out),
        first,
        worker.rank == 0,
        world=worker.world,
        meter=_meter(loaded, settings, worker, dtype),
        sinks=worker.sinks,
    )
    ahead = Ahead(steps, first, plan.steps)
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
        log.close()
    _checkpoint(engine, checkpoints, plan.steps)
    engine.module.restore()  # the export is of the towers too
    if worker.rank == 0:
        export(loaded, settings, plan)
    status.at("done")


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
    status.at("sum", samples=tuple(s for b in work.batches for row in b.samples for s in row))
    schedule = settings.schedule
    rate = ds.set_rates(engine, rate_factor(step, plan.steps, schedule.warmup_ratio, schedule.kind))
    counted = [
        sum(b.learned for b in work.batches),
        sum(int(b.mask_BL.sum()) for b in work.batches),
        sum(b.ids_BL.numel() for b in work.batches),
        work.cut,
        work.dropped,
        _frames(work.batches, MediumKind.IMAGE),
        _frames(work.batches, MediumKind.VIDEO),
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
        "images": int(counts[5]),
        "video_frames": int(counts[6]),
        "loss": loss_mean,
        "lr": rate,
        "grad_norm": float(engine.get_global_grad_norm() or 0.0),
        "step_s": round(time.monotonic() - started, 4),
        "data_wait_s": round(waited, 4),
    }


def _meter(loaded: LoadedModel, settings: StageSettings, worker: Worker, dtype: torch.dtype) -> Meter:
    lora = settings.lora is not None
    flops = flops_of(loaded.model, loaded.family, loaded.config, settings.rates, lora)
    return Meter(worker.world, flops, *peak_of(worker.device, dtype))


def _frames(batches: Sequence[Batch], kind: MediumKind) -> int:
    return sum(b.pixels[kind].shape[0] for b in batches if kind in b.pixels)


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
