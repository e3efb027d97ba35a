"""Which plan a settings file gets, by the kind of settings in it; nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from raypipe.errors import RequestError
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    Settings,
    StageSettings,
    TuneSettings,
    expanded,
    load,
    local,
    read_yaml,
)
from raypipe.store.run import Run

OPTIONS = ("cluster", "prices", "gpu", "gpu_gib", "mfu")
MARKS: dict[str, type[Settings]] = {  # a key that settings of one kind alone have
    "mixture": StageSettings,
    "start": StageSettings,
    "space": TuneSettings,
    "stage": TuneSettings,
    "eval_root": EvaluateSettings,
    "benchmarks": EvaluateSettings,
    "annotations": DatasetSettings,
}


class Plan(NamedTuple):
    """A plan for people and as data; ``refused`` where it can never be scheduled."""

    text: str
    result: dict[str, Any]
    refused: RequestError | None = None


def plan_of_run(root: str, overrides: list[str]) -> Plan:
    """What judging a finished evaluation would ask and pay: ``raypipe judge RUN``.

    Raises:
        RequestError: it is no finished evaluation; other runs have nothing to plan.
    """
    kind = Run.open(local(root)).settings["kind"]
    if kind != "evaluate":
        raise RequestError(
            f"{root} is a run of {kind}, and all it does is done",
            "plan takes a yaml, or the run of an evaluation: what judging it takes",
        )
    from raypipe.planning.evaluate import plan_judge

    return Plan(*plan_judge(local(root), overrides))


def kind_of(file: str | Path) -> type[Settings]:
    """The kind of settings in a yaml, by its keys.

    Raises:
        RequestError: of no kind that has a plan.
    """
    keys = read_yaml(expanded(file)).keys()
    for mark, kind in MARKS.items():
        if mark in keys:
            return kind
    raise RequestError(
        f"{file} is a yaml of no kind that plan knows",
        "it takes datasets (annotations:), stages (mixture:), searches (space:) and evaluations (eval_root:)",
    )


def plan_of(file: str, overrides: list[str], options: dict[str, str | None] | None = None) -> Plan:
    """What would be done.

    Args:
        options: see ``room_of``.

    Raises:
        RequestError: settings of a kind that has no plan, or as the verb itself.
    """
    from raypipe.planning.room import refusal, room_of

    kind = kind_of(file)
    settings, room = load(kind, file, overrides), room_of(dict.fromkeys(OPTIONS) | (options or {}))
    refused = None
    if isinstance(settings, StageSettings):
        from raypipe.planning.train import plan_train

        text, result, fits = plan_train(settings, room)
    elif isinstance(settings, TuneSettings):
        from raypipe.planning.tune import plan_tune

        text, result, fits, refused = plan_tune(settings, room)
    elif isinstance(settings, EvaluateSettings):
        from raypipe.planning.evaluate import plan_evaluate

        text, result, fits = plan_evaluate(settings, room)
    else:
        from raypipe.planning.prepare import plan_prepare

        assert isinstance(settings, DatasetSettings)  # noqa: S101 - the last of the kinds
        text, result, fits = plan_prepare(settings, room)
    return Plan(text, result, refusal(fits) or refused)
