"""Which plan a settings file gets, by the kind of settings in it; nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from raypipe.errors import RequestError
from raypipe.settings import DatasetSettings, EvaluateSettings, StageSettings, load, read_yaml

OPTIONS = ("cluster", "prices", "gpu", "gpu_gib", "mfu")


class Plan(NamedTuple):
    """A plan for people and as data; ``refused`` where it can never be scheduled."""

    text: str
    result: dict[str, Any]
    refused: RequestError | None = None


def plan_of(file: str, overrides: list[str], options: dict[str, str | None] | None = None) -> Plan:
    """What would be done.

    Args:
        options: see ``room_of``.

    Raises:
        RequestError: settings of a kind that has no plan, or as the verb itself.
    """
    from raypipe.planning.room import refusal, room_of

    keys = read_yaml(Path(file).expanduser()).keys()
    given = dict.fromkeys(OPTIONS) | (options or {})
    if "mixture" in keys or "start" in keys:
        from raypipe.planning.train import plan_train

        text, result, fits = plan_train(load(StageSettings, file, overrides), room_of(given))
        return Plan(text, result, refusal(fits))
    if "eval_root" in keys or "benchmarks" in keys:
        from raypipe.evaluate.forecast import forecast, render_forecast

        result = forecast(load(EvaluateSettings, file, overrides))
        return Plan(render_forecast(result), result)
    if "annotations" in keys:
        from raypipe.prepare.estimate import estimate, render

        result = estimate(load(DatasetSettings, file, overrides))
        return Plan(render(result), result)
    raise RequestError(
        f"{file} is a yaml of no kind that plan knows",
        "it takes datasets (annotations:), stages (mixture:), searches (space:) and evaluations (eval_root:)",
    )
