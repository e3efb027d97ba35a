"""The loader: against the speed at which the cores can decode JPEG, against Ray Data, beside a step."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import trained
from bench.figure import Figure, figure, plain
from bench.pairs import timed
from raypipe.cluster import connected
from raypipe.media.rendition import load_frame
from raypipe.model.build import Card, LoadedModel
from raypipe.model.families import FAMILIES
from raypipe.model.pixels import fit
from raypipe.records import MEDIA_SCHEMA
from raypipe.settings import StageSettings
from raypipe.store.run import Run
from raypipe.store.shards import Shard
from raypipe.text.templates import TEMPLATES
from raypipe.text.tokenizer import train_tokenizer
from raypipe.train.examples import Examples
from raypipe.train.loader import Ahead, Steps
from raypipe.train.mixture import Mixture
from raypipe.train.order import order_of
from raypipe.train.plan import plan_stage
from raypipe.train.work import Worker

CORES, SIDE, BATCH, STEP_S = 2, 224, 16, 0.1


def against_bound(pairs: int) -> Iterator[Figure]:
    """Seconds an epoch of batches of uint8 frames, against the speed at which the cores decode JPEG."""
    root = trained.clips()
    frames, settings = _stored(root), _stage(root, BATCH)
    with multiprocessing.get_context("spawn").Pool(CORES) as workers:
        workers.map(_decoded, [frames[:8]] * CORES)
        chunks = [frames[n : n + 64] for n in range(0, len(frames), 64)]
        bound_s = partial(_clocked, lambda: workers.map(_decoded, chunks, 1))
        _epoch(settings)  # warm
        (ratio,) = timed([partial(_epoch, settings), bound_s], pairs)
    bound = f"decoding the same JPEG frames and nothing else, {CORES} processes"
    share = round(1 / ratio.median, 3)
    yield figure("loader_bound", _epoch_of(frames), bound, ratio, round(1 / 0.9, 4), share=share)


def against_ray(pairs: int) -> Iterator[Figure]:
    """The same against Ray Data on the same shards."""
    root = trained.clips()
    settings = _stage(root, BATCH)
    _epoch(settings)  # warm
    with connected(quiet=True, dashboard=False):
        _ray_batches(root)  # warm
        (ratio,) = timed([partial(_epoch, settings), lambda: _clocked(lambda: _ray_batches(root))], pairs)
    peer = "Ray Data: the same shards by from_arrow, map_batches that decodes, iter_torch_batches"
    speedup = round(1 / ratio.median, 3)
    yield figure("loader_ray", _epoch_of(_stored(root)), peer, ratio, round(1 / 1.5, 4), speedup=speedup)


def data_wait(pairs: int) -> Iterator[Figure]:
    """What a step of 100 ms waits for its data; the step sleeps, as a CPU does while a GPU computes."""
    batch = 8
    settings = _stage(trained.clips(), batch)
    waits = []
    for _ in range(pairs):
        ahead, steps = _loader(settings)
        try:
            for step in range(steps):
                began = time.perf_counter()
                work = ahead.take()
                waited = time.perf_counter() - began
                del work  # what its memory takes to be given back is no waiting for data
                if step >= 2:  # the first ones fill the queue
                    waits.append(waited / (waited + STEP_S))
                time.sleep(STEP_S)
        finally:
            ahead.close()
    what = f"share of a step spent waiting for data: {STEP_S * 1000:.0f} ms a step, {batch} clips of 8 frames"
    yield plain("data_wait", what, float(np.mean(waits)), "share of the step", 0.01, steps=len(waits))


def _epoch_of(frames: list[bytes]) -> str:
    return f"raypipe's loader, an epoch of {len(frames) // 8} clips of 8 JPEG frames, batches of {BATCH}"


def _stage(root: Path, batch: int) -> StageSettings:
    values: dict[str, Any] = {
        "name": "bench",
        "out": "unused",
        "start": {"random": "tiny"},
        "mixture": [{"data": str(root)}],
        "global_batch": batch,
        "micro_batch": batch,
        "workers": {"cpus": CORES},
    }
    return StageSettings.model_validate(values)


@cache
def _shell() -> LoadedModel:
    """The 7B model without weights: the loader asks only its configuration and tokenizer."""
    family = FAMILIES["video_llava_hf"]
    tokenizer = train_tokenizer([" ".join(trained.WORDS), "What is there?", TEMPLATES["v1"].system])
    with torch.device("meta"):
        model = family.cls(family.random("7b", tokenizer.get_vocab_size()))
    return LoadedModel(model, family, tokenizer, Card())


def _loader(settings: StageSettings) -> tuple[Ahead, int]:
    mixture, plan = Mixture([part.data for part in settings.mixture]), plan_stage(settings)
    examples = Examples(mixture, _shell(), settings)
    alone = Worker(0, 1, torch.device("cpu"))
    steps = Steps(examples, order_of(mixture, plan, settings), alone, settings, None, plan.steps)
    return Ahead(steps, 0, plan.steps), plan.steps


def _epoch(settings: StageSettings) -> float:
    ahead, steps = _loader(settings)
    try:
        return _clocked(lambda: _taken(ahead, steps))
    finally:
        ahead.close()


def _taken(ahead: Ahead, steps: int) -> None:
    """Each batch is let go of before the next one is taken, as a training loop does."""
    for _ in range(steps):
        ahead.take()


def _clocked(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _tables(root: Path) -> list[Any]:
    run = Run.open(str(root), "prepare")
    names = [f["path"] for f in run.manifest["files"] if f["path"].startswith("media/")]
    return [Shard(run.store, name, MEDIA_SCHEMA).table() for name in names]


def _stored(root: Path) -> list[bytes]:
    return [frame for table in _tables(root) for row in table.column("frames").to_pylist() for frame in row]


def _decoded(frames: list[bytes]) -> int:
    return sum(load_frame(frame).shape[0] for frame in frames)


def _ray_batches(root: Path) -> None:
    import ray.data

    def decode(batch: dict[str, Any]) -> dict[str, Any]:
        shown = [[fit(load_frame(f), SIDE, pad=False) for f in frames] for frames in batch["frames"]]
        return {"frames": np.stack([np.stack(s) for s in shown])}

    data = ray.data.from_arrow([table.select(["frames"]) for table in _tables(root)])
    for _ in data.map_batches(decode, batch_size=BATCH).iter_torch_batches(batch_size=BATCH):
        pass
