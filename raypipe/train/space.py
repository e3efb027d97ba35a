"""The trials of a search: which settings are tried, drawn once and for all from the seed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.errors import RequestError, nearest
from raypipe.model.sizes import ONEVISION_PARTS, VIDEO_PARTS
from raypipe.records import fingerprint
from raypipe.settings import StageSettings, TuneSettings, identity
from raypipe.settings.tune import check_space, with_values

FOLDER = "trials"


@dataclass(frozen=True)
class Trial:
    """One trial: its name made from the content of its settings, what was chosen, the stage it trains."""

    id: str
    values: dict[str, Any]
    stage: StageSettings


def trials_of(settings: TuneSettings, stage: StageSettings) -> list[Trial]:
    """The trials in the order in which they start; the same every time.

    Values that are listed under ``grid`` are tried each with each. With ``trials`` these combinations are
    gone through as often as it takes, and the other axes are drawn anew every time. Of equal trials one is
    kept.

    Raises:
        RequestError: a name or value that no stage takes, or a number of trials that does not fit the space.
    """
    check_space(settings, stage)
    _check_parts(settings)
    stage = _for_search(settings, stage)
    found: dict[str, Trial] = {}
    for values in _drawn(settings):
        mine = with_values(stage, values, "tune: space")
        name = fingerprint(identity(mine))
        out = f"{settings.out}/{FOLDER}/{name}"
        made = mine.model_copy(update={"name": f"{settings.name}-{name[:8]}", "out": out})
        found.setdefault(name, Trial(name, values, made))
    return list(found.values())


def _drawn(settings: TuneSettings) -> list[dict[str, Any]]:
    grids = {name: axis.grid for name, axis in settings.space.items() if axis.grid is not None}
    combinations = [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]
    free = [name for name in settings.space if name not in grids]
    count = settings.trials or len(combinations)
    if settings.trials is None and free:
        raise RequestError(f"tune: how many trials? {free[0]} is drawn at random", "set trials=8")
    if count < len(combinations):
        raise RequestError(
            f"tune: the grid has {len(combinations)} combinations, trials is {count}",
            f"set trials={len(combinations)}, or use choice: in place of grid:",
        )
    random = np.random.default_rng(settings.seed)
    out = []
    for number in range(count if free else len(combinations)):
        drawn = {name: settings.space[name].draw(random) for name in free}
        chosen = {**combinations[number % len(combinations)], **drawn}
        out.append({name: chosen[name] for name in settings.space})
    return out


def _for_search(settings: TuneSettings, stage: StageSettings) -> StageSettings:
    """What the search itself decides for every trial."""
    chosen = {"metric": settings.metric, "mode": settings.mode, "wait": settings.wait}
    # A trial that waits for the score of a checkpoint needs it committed first.
    values = {"checkpoint.asynchronous": stage.checkpoint.asynchronous and not settings.wait}
    return with_values(stage, values | {f"validation.{k}": v for k, v in chosen.items()}, "tune")


def _check_parts(settings: TuneSettings) -> None:
    parts = sorted(VIDEO_PARTS | ONEVISION_PARTS)
    for name in settings.space:
        group, _, part = name.partition(".")
        if group == "rates" and part not in parts:
            raise RequestError(f"tune: space: no model has a part '{part}'", nearest(part, parts))
