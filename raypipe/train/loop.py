"""What each training worker does: build, restore, step, checkpoint.

Nothing in a step waits for the device: its loss and counts are read while the next step is computed, so a
row of the metrics comes one step late, and a loss that is not finite stops the run one step after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from raypipe.model.build import LoadedModel
from raypipe.model.splice import Batch
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.train import engine as ds
from raypipe.train import nonfinite, scored
from raypipe.train.checkpoints import Checkpoints
from raypipe.train.collate import shown
from raypipe.train.examples import Examples
from raypipe.train.flops import flops_of, peak_of
from raypipe.train.ledger import SampleLedger
from raypipe.train.loader import Ahead, Steps
from raypipe.train.meter import Meter
from raypipe.train.metrics import MetricLog
from raypipe.train.mixture import Mixture
from raypipe.train.order import Order, order_of, rate_factor
from raypipe.train.plan import StagePlan
from raypipe.train.start import build_model
from raypipe.train.state import fragments, restore
from raypipe.train.status import Status
from raypipe.train.work import Work, Worker


@dataclass
class Pending:
    """A step that has been handed to the device and not been looked at yet."""

    step: int
    samples: int
    rate: float
    each: list[nonfinite.Named]
    sums: torch.Tensor  # over all ranks: the counts, the loss; then the norm of the gradient
    ready: Any  # an event of the device, or None
    began: float
    waited: float
    ended: float = 0.0


def train_on_rank(
    plan: StagePlan, settings: StageSettings, worker: Worker, checkpoints: Checkpoints, status: Status
) -> None:
    """The whole stage on one rank; returns when the last checkpoint is committed."""
    mixture = Mixture(plan.data, settings.cache)
    loaded = build_model(settings, mixture)
    dtype = ds.precision_of(settings)
    loaded.model.to(worker.device, dtype)
    meter = _meter(loaded, settings, worker, dtype)
    engine = ds.start_engine(loaded, settings)
    store = Store(settings.out)
    record = checkpoints.newest()
    if record is not None:
        restore(engine, store, record)
    first = int(record["step"]) if record else 0
    examples = Examples(mixture, loaded, settings)
    examples.reading = status.reads
    order = order_of(mixture, plan, settings)
    # On a GPU frames go over the bus as they are, and become pixels there.
    made = dtype if worker.device.type == "cpu" else None
    steps = Steps(examples, order, worker, settings, made, plan.steps)
    loop = _Loop(engine, steps, order, plan, settings, worker, checkpoints, status)
    loop.log = MetricLog(store, first, worker.rank == 0, world=worker.world, meter=meter, sinks=worker.sinks)
    loop.ledger = SampleLedger(first, record["ledger"] if record else ())
    loop.part_of = lambda name: ds.part_of(name, loaded.family)
    loop.run(first)
    status.at("done")


def run_alone(plan: StagePlan, settings: StageSettings) -> None:
    """The stage on this process's rank without Ray; torch.distributed must be up."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    store, chosen = Store(settings.out), settings.checkpoint
    checkpoints = Checkpoints(
        store, rank, world, chosen.keep, lambda v: _gather(v, world), asynchronous=chosen.asynchronous
    )
    train_on_rank(plan, settings, Worker(rank, world, torch.device("cpu")), checkpoints, Status())


@dataclass
class _Loop:
    """The steps of one rank from a checkpoint, or the beginning, to the end."""

    engine: Any
    begin: Steps
    order: Order
    plan: StagePlan
    settings: StageSettings
    worker: Worker
    checkpoints: Checkpoints
    status: Status
    log: MetricLog = field(init=False)
    ledger: SampleLedger = field(init=False)
    part_of: Callable[[str], str] = field(init=False)
    pending: Pending | None = None

    def run(self, first: int) -> None:
        every, last = self.settings.checkpoint.every_steps, self.plan.steps
        ahead = Ahead(self.begin, first, last)
        self.checkpoints.beat = lambda: self.status.at("checkpoint")  # a long upload is no stuck rank
        try:
            for step in range(first, last):
                self.status.at("data", step=step, micro=0)
                self.checkpoints.check()
                self._step(step, ahead)
                done = step + 1
                if done == last or done % every == 0:
                    self._settle(time.monotonic())
                    self._checkpoint(done)
            self.log.flush()
            self.status.at("checkpoint")
            self.checkpoints.wait()
        finally:
            ahead.close()
            self.log.close()
            self.checkpoints.close()

    def _step(self, step: int, ahead: Ahead) -> None:
        """Hands a step to the device, then reads the one before."""
        began = time.monotonic()
        _seed(self.settings.seed, step, self.worker.rank)
        work: Work = ahead.take()
        waited = time.monotonic() - began
        self.status.at("sum", samples=tuple(seen.id for seen in work.seen))
        schedule = self.settings.schedule
        factor = rate_factor(step, self.plan.steps, schedule.warmup_ratio, schedule.kind)
        rate = ds.set_rates(self.engine, factor)
        each, sums = self._compute(work)
        self._note(step, work)
        sums, ready = _to_host(sums)
        self._settle(began)
        self.pending = Pending(step, len(work.numbers), rate, each, sums, ready, began, waited)

    def _note(self, step: int, work: Work) -> None:
        """Writes this rank's samples into the ledger; a slot there is a place in the order of the epoch."""
        epoch = self.order.epoch_of(step)
        base = (step - self.order.steps(epoch).start) * self.order.global_batch
        self.ledger.add(step, epoch, base, work.seen)

    def _compute(self, work: Work) -> tuple[list[nonfinite.Named], torch.Tensor]:
        """All micro-batches of a step and the optimizer's update.

        Returns:
            the loss of each of this rank's samples, and the sums over all ranks, both on the device.
        """
        batches, device = work.batches, self.worker.device
        counts = _sum(torch.tensor(work.counts, dtype=torch.float64, device=device))
        # DeepSpeed averages over ranks; the loss is a mean over the labels of all of them.
        scale = (self.worker.world / counts[0].clamp(min=1)).float()
        total = torch.zeros(1, dtype=torch.float64, device=device)
        each: list[nonfinite.Named] = []
        for micro, batch in enumerate(batches):
            names = nonfinite.names_of(batch)
            self.status.at("forward", micro=micro, samples=names)
            ds.micro_batch(self.engine, last=micro == len(batches) - 1)
            loss, losses = self.engine(self._on_device(batch))
            total += loss.detach().double()
            each.append((names, losses.detach()))
            self.status.at("backward")
            ds.backward(self.engine, loss * scale)
        self.status.at("step")
        norm = torch.as_tensor(self.engine.get_global_grad_norm(), dtype=torch.float64, device=device)
        return each, torch.cat([counts, _sum(total), norm.reshape(1)])

    def _on_device(self, batch: Batch) -> Batch:
        if self.worker.device.type == "cpu":
            return batch
        return shown(batch, self.begin.look, ds.precision_of(self.settings), self.worker.device)

    def _settle(self, ended: float) -> None:
        """Reads the step that was handed over last; its row goes into the metrics.

        Raises:
            RaypipeError: its loss or gradient is not finite; the same on all ranks.
        """
        if self.pending is None:
            return
        step, self.pending = self.pending, None
        if step.ready is not None:
            step.ready.synchronize()
        learned, tokens, slots, cut, dropped, images, frames, total, norm = step.sums.tolist()
        loss = total / max(1.0, learned)
        if not math.isfinite(loss) or not math.isfinite(norm) or norm < 0:
            self._explain(step, loss, learned)
        row = {
            "step": step.step + 1,
            "steps": self.plan.steps,
            "epoch": round((step.step + 1) / self.plan.steps_per_epoch, 4),
            "samples": step.samples,
            "tokens": int(tokens),
            "slots": int(slots),
            "learned_tokens": int(learned),
            "cut": int(cut),
            "dropped": int(dropped),
            "images": int(images),
            "video_frames": int(frames),
            "loss": loss,
            "lr": step.rate,
            "grad_norm": norm,
            "step_s": round(ended - step.began, 4),
            "data_wait_s": round(step.waited, 4),
        }
        self.log.add(row)

    def _explain(self, step: Pending, loss: float, learned: float) -> None:
        """Finds out, with all ranks, what made a step not finite, and raises it."""
        parts: list[str] = []
        samples = nonfinite.bad_losses(step.each)
        if math.isfinite(loss):
            batches = [self._on_device(batch) for batch in self.begin(step.step)().batches]
            _seed(self.settings.seed, step.step, self.worker.rank)
            scale = self.worker.world / max(1.0, learned)
            parts, samples = nonfinite.bad_gradients(self.engine, batches, scale, self.part_of)
        told = _gather((parts, samples), self.worker.world)
        everywhere = sorted({part for found, _ in told for part in found})
        names = list(dict.fromkeys(name for _, found in told for name in found))
        what = "gradient" if math.isfinite(loss) else "loss"
        raise nonfinite.stop(step.step + 1, what, everywhere, names)

    def _checkpoint(self, done: int) -> None:
        """Commits the state after ``done`` steps, in the background where that is wanted."""
        self.log.flush()
        self.status.at("checkpoint")
        tensors, extra = fragments(self.engine)
        gather = lambda value: _gather(value, self.worker.world)  # noqa: E731
        chain, segment = self.ledger.close(done, self.checkpoints.attempt, gather)
        position = {"step": done, "steps_per_epoch": self.plan.steps_per_epoch}
        extra |= {"seed": self.settings.seed, "position": position, "ledger": chain}
        self.checkpoints.commit(tensors, done, extra, segment)
        scored.hold(Store(self.settings.out), done, self.settings, self.plan.steps, self.status)


def _meter(loaded: LoadedModel, settings: StageSettings, worker: Worker, dtype: torch.dtype) -> Meter:
    lora = settings.lora is not None
    flops = flops_of(loaded.model, loaded.family, loaded.config, settings.rates, lora)
    return Meter(worker.world, flops, *peak_of(worker.device, dtype))


def _seed(seed: int, step: int, rank: int) -> None:
    """Dropout and the like: a function of seed, position and rank, so that a resumed run repeats itself.

    With another number of workers a sample may be computed by another rank, so the masks of dropout are
    others; order, schedule, and the normalisation of the loss are the same.
    """
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank)


def _to_host(values: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Starts a copy to host memory; the event tells when it is done (None: now)."""
    if values.device.type != "cuda":
        return values, None
    copied = values.to("cpu", non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copied, event


def _sum(value: torch.Tensor) -> torch.Tensor:
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(value)
    return value


def _gather(value: Any, world: int) -> list[Any]:
    """A value of each rank, on all ranks."""
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    torch.distributed.all_gather_object(values, value)
    return values
