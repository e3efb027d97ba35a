"""What each training worker does: build, restore, step, checkpoint, export."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raypipe.errors import RaypipeError
from raypipe.model.build import Card, LoadedModel, load_model, random_model, save_model
from raypipe.model.splice import Batch
from raypipe.settings import Rendition, Sampling, StageSettings
from raypipe.store.files import Store
from raypipe.text.chat import TEMPLATES
from raypipe.text.tokenizer import train_tokenizer
from raypipe.train import engine as ds
from raypipe.train.checkpoints import Checkpoints
from raypipe.train.data import Ahead, Examples, Mixture, collate
from raypipe.train.order import Order, rate_factor, share
from raypipe.train.plan import StagePlan

METRICS = "metrics.jsonl"
FLUSH_S = 2.0


@dataclass
class Worker:
    """One rank's place in the run."""

    rank: int
    world: int
    device: torch.device


class MetricLog:
    """The run's metrics.jsonl, written whole by rank 0; a resumed run goes on after its checkpoint."""

    def __init__(self, store: Store, first: int, active: bool) -> None:
        self._store, self._active, self._written = store, active, 0.0
        self._lines: list[str] = []
        if active and first and store.exists(METRICS):
            old = store.read(METRICS).decode().splitlines()
            self._lines = [line for line in old if json.loads(line)["step"] <= first]

    def add(self, row: dict[str, Any]) -> None:
        if self._active:
            self._lines.append(json.dumps(row))
            if time.monotonic() - self._written > FLUSH_S:
                self.flush()

    def flush(self) -> None:
        if self._active:
            self._store.replace(METRICS, ("\n".join(self._lines) + "\n").encode())
            self._written = time.monotonic()


def build_model(settings: StageSettings, mixture: Mixture) -> LoadedModel:
    """The stage's model: from a folder, or random; with adapters when the stage has LoRA."""
    start = settings.start
    if start.random is not None:
        texts = [t.system for t in TEMPLATES.values()] + ["USER: ASSISTANT:"] * 8
        texts += [t for number in range(min(len(mixture), 20000)) for t in mixture.texts(number)]
        loaded = random_model(start.random, train_tokenizer([f" {t}" for t in texts]), start.seed)
    else:
        loaded = load_model(str(start.model), precision=settings.precision)
    loaded.model.train()
    if settings.lora:
        from raypipe.model.lora import add_lora

        torch.manual_seed(settings.seed)
        loaded = add_lora(loaded, settings.lora, list(settings.rates), str(loaded.folder))
    return loaded


def train_on_rank(plan: StagePlan, settings: StageSettings, worker: Worker, checkpoints: Checkpoints) -> None:
    """The whole stage on one rank; returns when the model is exported."""
    mixture = Mixture(plan.data)
    loaded = build_model(settings, mixture)
    dtype = ds.precision_of(settings)
    loaded.model.to(worker.device, dtype)
    engine = ds.start_engine(loaded, settings, worker.world, plan.accumulation, plan.micro)
    first = 0
    with checkpoints.newest() as folder:
        if folder is not None:
            first = int(ds.load_state(engine, folder)["step"])
    frames = loaded.family.frames(loaded.model.config)
    chat = loaded.chat(settings.template)
    examples = Examples(mixture, chat, loaded.side, settings.image_aspect, settings.max_tokens, frames)
    lengths = mixture.lengths() if settings.group_by_length else None
    order = Order(len(mixture), settings.global_batch, settings.seed, lengths)

    def make(step: int) -> list[Batch]:
        return micro_batches(examples, order.batch(step), worker, plan, dtype)

    log = MetricLog(Store(settings.out), first, worker.rank == 0)
    ahead = Ahead(make, first, plan.steps)
    try:
        for step in range(first, plan.steps):
            log.add(_step(engine, ahead, step, plan, settings, worker))
            done = step + 1
            if done % settings.checkpoint.every_steps == 0 and done < plan.steps:
                log.flush()
                _checkpoint(engine, checkpoints, done)
    finally:
        ahead.close()
    log.flush()
    _checkpoint(engine, checkpoints, plan.steps)
    if worker.rank == 0:
        _export(loaded, settings, plan)


def micro_batches(
    examples: Examples, batch: tuple[int, ...], worker: Worker, plan: StagePlan, dtype: torch.dtype
) -> list[Batch]:
    """This rank's share of a global batch, cut for accumulation.

    A rank whose share is smaller (the last batch of an epoch) is filled up with samples that carry
    no labels, so that every rank takes part in every reduction and nothing is counted twice.
    """
    mine = list(share(batch, worker.rank, worker.world))
    filled = mine + [batch[0]] * (plan.accumulation * plan.micro - len(mine))
    weights = [True] * len(mine) + [False] * (len(filled) - len(mine))
    out = []
    for start in range(0, len(filled), plan.micro):
        part = slice(start, start + plan.micro)
        out.append(collate([examples[i] for i in filled[part]], weights[part], dtype, worker.device))
    return out


def _step(
    engine: Any, ahead: Ahead, step: int, plan: StagePlan, settings: StageSettings, worker: Worker
) -> dict[str, Any]:
    started = time.monotonic()
    _seed(settings.seed, step, worker.rank)
    batches = ahead.take()
    waited = time.monotonic() - started
    schedule = settings.schedule
    rate = ds.set_rates(engine, rate_factor(step, plan.steps, schedule.warmup_ratio, schedule.kind))
    tokens = torch.tensor([sum(b.learned for b in batches), sum(int(b.mask_BL.sum()) for b in batches)])
    counts = _sum(tokens.to(worker.device, torch.float64))
    learned = max(1.0, float(counts[0]))
    # DeepSpeed averages over ranks and micro-batches; the loss is a mean over the labels of all of them.
    scale = worker.world * plan.accumulation / learned
    total = torch.zeros(1, dtype=torch.float64, device=worker.device)
    for batch in batches:
        loss = engine(batch)
        total += loss.detach().double()
        engine.backward(loss * scale)
        engine.step()
    loss_mean = float(_sum(total)) / learned
    if not torch.isfinite(torch.tensor(loss_mean)):
        raise RaypipeError(
            f"the loss is not finite at step {step + 1}", "lower the rates, or look at the batch's samples"
        )
    return {
        "step": step + 1,
        "steps": plan.steps,
        "epoch": round((step + 1) / plan.steps_per_epoch, 4),
        "samples": (step + 1) * settings.global_batch,
        "tokens": int(counts[1]),
        "learned_tokens": int(counts[0]),
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


def _export(loaded: LoadedModel, settings: StageSettings, plan: StagePlan) -> None:
    """The model in the Hugging Face layout, with the card that says how it wants to be shown things."""
    card = Card(
        template=settings.template,
        image_aspect=settings.image_aspect,
        sampling=Sampling(**plan.facts["sampling"]),
        rendition=Rendition(**plan.facts["rendition"]),
        parents=tuple(plan.parents),
    )
    if settings.gradient_checkpointing:
        loaded.model.gradient_checkpointing_disable()
    with tempfile.TemporaryDirectory(prefix="raypipe-export-") as folder:
        save_model(loaded, card, Path(folder))
        store = Store(settings.out)
        for file in sorted(p for p in Path(folder).iterdir() if p.is_file()):
            store.replace_from(f"model/{file.name}", file)


def _seed(seed: int, step: int, rank: int) -> None:
    """Dropout and the like: a function of seed, position and rank, so that a resumed run repeats itself."""
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank)


def _sum(value: torch.Tensor) -> torch.Tensor:
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(value)
    return value
