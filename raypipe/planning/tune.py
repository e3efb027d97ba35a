"""The plan of a search: its trials, how many fit at once, and what the stage of one of them takes."""

from __future__ import annotations

import math
from typing import Any

from raypipe.errors import RequestError
from raypipe.planning.fit import Ask, Fit, placed
from raypipe.planning.room import Room, cost_line, cost_of, place_lines
from raypipe.planning.text import hours, many, page, some
from raypipe.planning.train import forecast_of, hours_of, judged, stage_lines
from raypipe.settings import StageSettings, TuneSettings, located
from raypipe.settings.tune import stage_of
from raypipe.train.space import Trial, trials_of

DRIVER_CPUS = 0.05  # of a trial's own actor, as in train/tune.py


def plan_tune(
    settings: TuneSettings, room: Room
) -> tuple[str, dict[str, Any], list[Fit], RequestError | None]:
    """The plan as text and as data, where its trials find room, and why not one of them does.

    Raises:
        RequestError: as the search itself, as far as it shows without a model.
    """
    stage = located(stage_of(settings))
    check(stage)
    trials = trials_of(settings, stage)
    first = trials[0].stage
    found = forecast_of(first)
    at_once = at_once_of(settings, trials, room)
    fits, floor = placed(_asks(trials[0].stage, at_once), room.machines)
    steps = found["steps"]["steps"]
    search: dict[str, Any] = {
        "trials": len(trials),
        "space": list(settings.space),
        **_steps(settings, trials, steps),
    }
    search["at_once"] = at_once
    time_h = hours_of(found, first, room)
    spent = (
        None if time_h is None or not steps else time_h / steps * search["steps_at_most"] / max(1, at_once)
    )
    gpus = at_once * (first.workers.num * first.workers.gpus + first.validation.gpus)
    cost = cost_of(floor, spent, gpus)
    result: dict[str, Any] = {
        "name": settings.name,
        "out": settings.out,
        "search": search,
        "stage": {**found, "gpu": judged(found, first, room)},
        "machines": room.machines.row(),
        "fit": [one.row() for one in fits],
        "assumed": {"mfu": room.mfu, "given": room.mfu_given},
        "cost": cost,
    }
    lines = [("search", _search_line(settings, search)), ("one trial", f"a stage in {first.out}")]
    lines += stage_lines(result["stage"], first)
    lines += place_lines(fits, room)
    if gpus:
        said = "not known before the data, the model and the GPU are there"
        if spent is not None:
            said = (
                f"at most {hours(spent)} of computing, {at_once} at a time, at an MFU of {100 * room.mfu:g} %"
            )
        lines += [("takes", said), cost_line(cost, room)]
    refused = None
    if not at_once:
        cpus, gpus = _whole(trials[0].stage)
        refused = RequestError(
            f"it can never be scheduled: one trial with its validation takes {cpus:g} CPUs and "
            f"{gpus:g} GPUs, more than all of {room.machines.where}",
            "lower what workers or validation take, or choose a larger cluster",
        )
    return page(f"plan of {settings.name}: nothing is started", lines), result, fits, refused


def at_once_of(settings: TuneSettings, trials: list[Trial], room: Room) -> int:
    """How many trials with their validation the machines hold at once; 0: not even one.

    By sums over all nodes, as the search itself counts; each worker needs a node that holds it besides.
    """
    asked = [_whole(trial.stage) for trial in trials]
    cpus, gpus = max(cpus for cpus, _ in asked), max(gpus for _, gpus in asked)
    have = room.machines.at_most()
    fits = min(there / wanted for there, wanted in ((have.cpus, cpus), (have.gpus, gpus)) if wanted)
    most = min(settings.max_concurrent or len(trials), len(trials))
    return most if math.isinf(fits) else min(most, math.floor(fits + 1e-9))


def _asks(stage: StageSettings, at_once: int) -> list[Ask]:
    """The processes of so many trials at once."""
    workers, chosen, count = stage.workers, stage.validation, max(1, at_once)
    return [
        Ask("worker", workers.num * count, workers.num, workers.cpus, workers.gpus),
        Ask("validation task", count, 1, chosen.cpus, chosen.gpus),
    ]


def _whole(stage: StageSettings) -> tuple[float, float]:
    workers, chosen = stage.workers, stage.validation
    return workers.num * workers.cpus + chosen.cpus + DRIVER_CPUS, workers.num * workers.gpus + chosen.gpus


def _steps(settings: TuneSettings, trials: list[Trial], each: int | None) -> dict[str, Any]:
    """Steps of all trials: at most, and where each rung lets go on only as many as it must."""
    if each is None:
        return {"steps_at_most": None, "steps_at_least": None, "rungs": []}
    most = each * len(trials)
    if settings.scheduler == "none":
        return {"steps_at_most": most, "steps_at_least": most, "rungs": []}
    stage = trials[0].stage
    first = stage.validation.every_steps or stage.checkpoint.every_steps
    rung, left, least, rungs, before = settings.grace or min(first, each), len(trials), 0, list[int](), 0
    while rung < each:
        rungs.append(rung)
        least += left * (rung - before)
        left, before, rung = math.ceil(left / settings.reduction), rung, rung * settings.reduction
    return {"steps_at_most": most, "steps_at_least": least + left * (each - before), "rungs": rungs}


def _search_line(settings: TuneSettings, search: dict[str, Any]) -> str:
    said = f"{some(search['trials'], 'trial')} over {', '.join(search['space'])}"
    said += (
        f", {search['at_once']} at a time" if search["at_once"] else ", NO room for one with its validation"
    )
    if search["steps_at_most"] is None:
        return said
    if search["steps_at_least"] < search["steps_at_most"]:
        rungs = ", ".join(map(str, search["rungs"]))
        said += f"; ASHA stops the poorer ones at steps {rungs}: {many(search['steps_at_least'])} to"
        return f"{said} {many(search['steps_at_most'])} steps in all"
    return f"{said}; {many(search['steps_at_most'])} steps in all"


def check(stage: StageSettings) -> None:
    """What the search itself refuses before it starts.

    Raises:
        RequestError: the trials have no validation to be compared by.
    """
    if not (stage.validation.fraction or stage.validation.benchmarks):
        raise RequestError(
            "tune: trials are compared by validation, and the stage has none",
            "set.validation.fraction=0.02, or set.validation.benchmarks",
        )
