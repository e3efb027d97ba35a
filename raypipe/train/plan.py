"""What a stage will do, worked out before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.errors import RequestError
from raypipe.settings import StageSettings, local
from raypipe.store.run import Run
from raypipe.train.epochs import Epochs
from raypipe.train.mixture import Mixture
from raypipe.train.split import split


@dataclass(frozen=True)
class StagePlan:
    """A stage's arithmetic and where its data lies; plain values, sent to every worker.

    ``samples`` and ``steps_per_epoch`` are of the first epoch (where a weight is no whole number, later ones
    may have one sample more or less of a part); ``held`` samples are kept for validation.
    """

    data: tuple[str, ...]
    samples: int
    steps: int
    steps_per_epoch: int
    facts: dict[str, Any]
    parents: tuple[dict[str, str], ...]
    held: int = 0
    epoch_samples: tuple[int, ...] = ()  # of each epoch that is begun
    each_once: bool = True  # an epoch sees each sample once: all weights are 1


def plan_stage(settings: StageSettings) -> StagePlan:
    """Opens the mixture and derives the steps.

    Raises:
        RequestError: a part that is no finished prepare run, parts that were sampled differently, weights or
            a split that leave nothing, or more epochs than anybody counts.
    """
    runs = [Run.open(local(part.data), "prepare") for part in settings.mixture]
    manifests = [run.manifest for run in runs]
    if not any(m["totals"]["ok"] for m in manifests):
        raise RequestError("the mixture holds no sample", "look at quarantine.jsonl of its prepare runs")
    facts = [m["facts"] for m in manifests if m["totals"]["media_ok"]] or [manifests[0]["facts"]]
    if any(f[name] != facts[0][name] for f in facts for name in ("sampling", "rendition")):
        raise RequestError(
            "the parts of the mixture were sampled or stored differently",
            "prepare them with the same sampling and rendition",
        )
    roots = tuple(run.store.root for run in runs)
    counts = [int(m["totals"]["ok"]) for m in manifests]
    held = 0
    if settings.validation.fraction:
        counts, held = _split(roots, settings)
    epochs = Epochs(counts, [part.weight for part in settings.mixture], settings.global_batch)
    steps = settings.steps or epochs.steps(settings.epochs or 1.0)
    if not epochs.size(0) or not steps:
        raise RequestError("the weights leave no sample for an epoch", "raise mixture[].weight")
    epochs.check(steps)
    return StagePlan(
        data=roots,
        samples=epochs.size(0),
        steps=steps,
        steps_per_epoch=epochs.first_step(1),
        facts=facts[0],
        parents=tuple(run.lineage() for run in runs),
        held=held,
        epoch_samples=tuple(epochs.size(e) for e in range(epochs.place(steps - 1)[0] + 1)),
        each_once=all(part.weight == 1 for part in settings.mixture),
    )


def _split(roots: tuple[str, ...], settings: StageSettings) -> tuple[list[int], int]:
    """Samples of each part that train, and how many are held out."""
    mixture = Mixture(roots)
    parts = split(mixture, settings)
    if not len(parts.held):
        raise RequestError(
            f"validation.fraction={settings.validation.fraction} holds nothing out of {len(mixture)} samples",
            "raise it, or set it to 0",
        )
    trains = np.bincount(mixture.columns.part[parts.train], minlength=len(roots))
    return [int(n) for n in trains], len(parts.held)
