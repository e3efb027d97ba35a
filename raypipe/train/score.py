"""The score of one checkpoint: loss over the samples held out, and benchmarks that a rule grades.

This runs as a Ray task of its own beside training, or in any process: it needs the run's store alone.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raypipe.errors import RequestError
from raypipe.evaluate.run import evaluate, in_process
from raypipe.grading.statistics import cluster_bootstrap
from raypipe.model.build import DTYPES, LoadedModel, save_model
from raypipe.model.splice import Batch, LossHead
from raypipe.records import fingerprint
from raypipe.settings import EvaluateSettings, StageSettings
from raypipe.store.files import Store
from raypipe.store.run import COMMIT
from raypipe.text.chat import IGNORE
from raypipe.train.collate import collate
from raypipe.train.examples import Examples
from raypipe.train.export import card_of
from raypipe.train.mixture import Mixture
from raypipe.train.plan import StagePlan
from raypipe.train.split import split
from raypipe.train.start import build_model
from raypipe.train.state import load_trained


def score_checkpoint(plan: StagePlan, settings: StageSettings, step: int) -> dict[str, Any]:
    """Builds the model, puts the checkpoint's weights in, and measures.

    Returns:
        a record: ``step``, ``loss`` with ``low`` and ``high``, ``clusters``, ``samples``, ``tokens``,
        ``kinds``, ``benchmarks`` (name -> metric -> value) and ``seconds``.

    Raises:
        RequestError: nothing is held out, or the checkpoint is not there.
    """
    began = time.monotonic()
    chosen = settings.validation
    torch.set_num_threads(max(1, int(chosen.cpus)))
    torch.manual_seed(settings.seed)
    device = torch.device("cuda") if chosen.gpus else torch.device("cpu")
    mixture, store = Mixture(plan.data), Store(settings.out)
    loaded = build_model(settings, mixture)
    record = json.loads(store.read(f"checkpoints/step-{step:08d}.json"))
    load_trained(loaded.model, store, record)
    loaded.model.to(device, DTYPES[settings.precision]).eval()
    result: dict[str, Any] = {"step": step, "benchmarks": {}}
    if chosen.fraction:
        numbers = chosen_samples(mixture, split(mixture, settings).held.tolist(), chosen.samples)
        result |= held_loss(loaded, mixture, numbers, settings, device)
    if chosen.benchmarks:
        result["benchmarks"] = _benchmarks(loaded, plan, settings, step)
    return result | {"seconds": round(time.monotonic() - began, 2)}


def chosen_samples(mixture: Mixture, held: Sequence[int], most: int) -> list[int]:
    """At most so many of the samples held out, the same ones every time, ascending.

    Raises:
        RequestError: there are none.
    """
    if len(held) == 0:
        raise RequestError("nothing is held out for validation", "raise validation.fraction")
    numbers = sorted(int(number) for number in held)
    if len(numbers) <= most:
        return numbers
    by_hash = sorted(numbers, key=lambda number: fingerprint("validation", mixture.sample(number).id, number))
    return sorted(by_hash[:most])


@torch.inference_mode()
def held_loss(
    loaded: LoadedModel, mixture: Mixture, numbers: Sequence[int], settings: StageSettings, device: Any
) -> dict[str, Any]:
    """Mean loss over all learned tokens of some samples, with a 95 % interval over their media.

    The model is used as it is (``eval``); no clip is mirrored, and rows are never packed.
    """
    still = settings.model_copy(update={"flip": 0.0, "packing": False})
    examples, head = Examples(mixture, loaded, still), LossHead(loaded.model, loaded.family)
    sums: list[np.ndarray] = []
    for start in range(0, len(numbers), settings.micro_batch):
        rows = [(examples[n],) for n in numbers[start : start + settings.micro_batch]]
        batch = collate(rows, DTYPES[settings.precision], device, look=examples.look)
        sums.append(np.stack([head(batch)[1].double().cpu().numpy(), _learned(batch)], axis=1))
    each = np.concatenate(sums)
    kinds = [{str(k) for k in mixture.sample(n).kinds} or {"text"} for n in numbers]
    by_kind = {}
    for kind in sorted(set().union(*kinds)):
        mine = each[[kind in k for k in kinds]]
        by_kind[kind] = {"loss": _mean(mine), "samples": len(mine), "tokens": int(mine[:, 1].sum())}
    clustered = _by_medium(each, [mixture.sample(n).media for n in numbers])
    # One medium says nothing of how media differ.
    low, high = cluster_bootstrap(clustered, _ratio) if len(clustered) > 1 else (None, None)
    return {
        "loss": _mean(each),
        "low": low,
        "high": high,
        "clusters": len(clustered),
        "samples": len(each),
        "tokens": int(each[:, 1].sum()),
        "kinds": by_kind,
    }


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def _mean(each: np.ndarray) -> float | None:
    tokens = float(each[:, 1].sum())
    return float(each[:, 0].sum()) / tokens if tokens else None


def _learned(batch: Batch) -> np.ndarray:
    """Learned tokens of each sample of a batch."""
    learned = batch.labels_BL[:, 1:] != IGNORE
    counts = torch.zeros(sum(len(row) for row in batch.samples), dtype=torch.float64)
    owners = batch.owners_BL()[:, 1:][learned].cpu()
    return counts.index_add_(0, owners, torch.ones(len(owners), dtype=torch.float64)).numpy()


def _by_medium(each: np.ndarray, media: Sequence[Sequence[str]]) -> np.ndarray:
    """Sums of samples that share a medium, directly or through others; a text-only one stands alone."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    for keys in media:
        for key in keys[1:]:
            leader[find(key)] = find(keys[0])
    totals: dict[Any, np.ndarray] = {}
    for place, keys in enumerate(media):
        cluster: Any = find(keys[0]) if keys else place
        totals[cluster] = totals.get(cluster, 0.0) + each[place]
    return np.stack(list(totals.values()))


def _benchmarks(
    loaded: LoadedModel, plan: StagePlan, settings: StageSettings, step: int
) -> dict[str, dict[str, float | None]]:
    """An evaluate run of its own below the stage's folder, made in this process and on its resources."""
    chosen = settings.validation
    with tempfile.TemporaryDirectory(prefix="raypipe-validation-") as folder:
        save_model(loaded, card_of(loaded, settings, plan), Path(folder) / "model")
        asked = EvaluateSettings(
            model=f"{folder}/model",
            model_base=settings.start.model if settings.lora else None,
            benchmarks=chosen.benchmarks,
            eval_root=str(chosen.eval_root),
            out=f"{folder}/run",
            limit=chosen.questions,
            precision=settings.precision,
            batch=settings.micro_batch,
            actor_cpus=chosen.cpus,
            actor_gpus=chosen.gpus,
            coverage_floor=0.0,
        )
        scores = evaluate(asked, execute=in_process)["benchmarks"]
        _keep(Store(asked.out), Store(settings.out), f"validation/step-{step:08d}")
    return {name: {s["metric"]: s["value"] for s in rows} for name, rows in scores.items()}


def _keep(made: Store, store: Store, folder: str) -> None:
    """Puts a finished run below another one, over what a try before left there; its commit record last."""
    store.delete_many(store.list(folder))
    for name in sorted(made.list(), key=lambda n: (n == COMMIT, n)):
        store.replace_from(f"{folder}/{name}", Path(made.path(name)))
