"""What a stage will do, worked out before anything starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from raypipe.errors import RequestError
from raypipe.settings import StageSettings, local
from raypipe.store.run import Run


@dataclass(frozen=True)
class StagePlan:
    """A stage's arithmetic and where its data lies; plain values, sent to every worker."""

    data: tuple[str, ...]
    samples: int
    steps: int
    steps_per_epoch: int
    facts: dict[str, Any]
    parents: tuple[dict[str, str], ...]


def plan_stage(settings: StageSettings) -> StagePlan:
    """Opens the mixture and derives the steps.

    Raises:
        RequestError: a part that is no finished prepare run, or parts that were sampled differently.
    """
    runs = [Run.open(local(part.data), "prepare") for part in settings.mixture]
    manifests = [run.manifest for run in runs]
    samples = sum(m["totals"]["ok"] for m in manifests)
    if samples == 0:
        raise RequestError("the mixture holds no sample", "look at quarantine.jsonl of its prepare runs")
    facts = [m["facts"] for m in manifests if m["totals"]["media_ok"]] or [manifests[0]["facts"]]
    if any(f[name] != facts[0][name] for f in facts for name in ("sampling", "rendition")):
        raise RequestError(
            "the parts of the mixture were sampled or stored differently",
            "prepare them with the same sampling and rendition",
        )
    per_epoch = math.ceil(samples / settings.global_batch)
    steps = settings.steps or math.ceil(per_epoch * (settings.epochs or 1.0))
    return StagePlan(
        data=tuple(run.store.root for run in runs),
        samples=samples,
        steps=steps,
        steps_per_epoch=per_epoch,
        facts=facts[0],
        parents=tuple(run.lineage() for run in runs),
    )
