"""The verbs that make a run: settings in, one function of the verb, a result out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raypipe.cli import Request, show
from raypipe.commands.arguments import (
    one_word,
    print_report,
    share,
    show_scores,
    wants_dashboard,
    whole_number,
)
from raypipe.errors import BudgetError, RequestError
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    JudgeSettings,
    StageSettings,
    TuneSettings,
    build,
    load,
    local,
)
from raypipe.terminal import Step


def demo(request: Request) -> int:
    from raypipe.demo.run import run_demo

    out = local(request.take("out", "runs/demo") or "")
    request.nothing_left("demo", ["out"])
    if request.words:
        raise RequestError(f"demo takes no word '{request.words[0]}'", "raypipe demo --out DIR")
    report = run_demo(out)
    if request.json:
        print(json.dumps(report, sort_keys=True, default=str))
        return 0
    print_report(report)
    return 0


def prepare(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.prepare.read import Annotations
    from raypipe.prepare.run import prepare as run

    settings = load(DatasetSettings, request.yaml(), request.settings)
    _draw_if_asked(settings)
    Annotations(settings)  # nobody waits for a cluster to hear that a file is not there
    with connected(quiet=True, dashboard=wants_dashboard()), _recorded(request, settings.out):
        try:
            with Step(f"prepare {settings.name}") as step:
                totals = run(settings, progress=step.lines)
        except BudgetError as fault:
            _show_totals(settings, fault.result, request.json)
            raise
        _show_totals(settings, totals, request.json)
    return 0


@contextlib.contextmanager
def _recorded(request: Request, out: str, *, opened: bool = False) -> Iterator[None]:
    """Within it what is said and how it ends is kept in the run folder; see store/recording.py."""
    from raypipe.cluster import facts
    from raypipe.store.recording import recording

    with recording(out, request.command, opened=opened, facts={"cluster": facts()}):
        yield


def _show_totals(settings: DatasetSettings, totals: dict[str, Any], as_json: bool) -> None:
    text = (
        f"{totals['ok']} of {totals['inputs']} records ready, {totals['quarantined']} in quarantine; "
        f"{totals['media_ok']} media, {totals['frames']} frames, {totals['bytes'] / 1e6:.1f} MB "
        f"in {local(settings.out)}"
    )
    show({"out": local(settings.out), **totals}, text, as_json)


def train(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.train.run import train as run

    settings = load(StageSettings, request.yaml(), request.settings)
    with connected(quiet=True, dashboard=wants_dashboard()), _recorded(request, settings.out):
        settings = _prepare_first(request, settings)
        with Step(f"train {settings.name}") as step:
            result = run(settings, progress=step.training, tell=step.event)
        losses = f"loss {result['first_loss']:.4f} -> {result['last_loss']:.4f}"
        text = f"{result['steps']} steps, {losses}, model in {result['model']}"
        show(result, text, request.json)
    return 0


def tune(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.settings.tune import stage_of
    from raypipe.train.tune import PLOT, render
    from raypipe.train.tune import tune as run

    settings = load(TuneSettings, request.yaml(), request.settings)
    stage = stage_of(settings)
    with connected(quiet=True, dashboard=wants_dashboard()), _recorded(request, settings.out):
        settings = settings.model_copy(update={"stage": _prepare_first(request, stage), "set": {}})
        with Step(f"tune {settings.name}") as step:
            result = run(settings, progress=step.note)
        show(result, f"{render(result)}\n{local(settings.out)}/{PLOT}", request.json)
    return 0


def evaluate(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.evaluate.run import evaluate as run

    settings = load(EvaluateSettings, request.yaml(required=False), request.settings)
    with connected(quiet=True, dashboard=wants_dashboard()), _recorded(request, settings.out):
        try:
            with Step("evaluate") as step:
                result = run(settings, progress=step.lines)
        except BudgetError as fault:
            show_scores(fault.result, settings.out, request.json)
            raise
        show_scores(result, settings.out, request.json)
    return 0


def judge(request: Request) -> int:
    from raypipe.cluster import connected
    from raypipe.evaluate.drift import drift_of, render
    from raypipe.evaluate.run import judge_again
    from raypipe.store.run import Run

    root = one_word(request, "RUN")
    floor, sample = request.take("coverage_floor"), request.take("drift")
    used = Run.open(root, "evaluate").settings["settings"].get("judge") or {}
    wanted = load(JudgeSettings, None, [s.removeprefix("judge.") for s in request.settings]).model_dump(
        exclude_unset=True
    )
    settings = build(JudgeSettings, {**used, **wanted}, "command line")
    with connected(quiet=True, dashboard=wants_dashboard()), _recorded(request, root, opened=True):
        if sample is not None:
            with Step("judge") as step:
                found = drift_of(root, settings, whole_number("drift", sample), step.count("verdicts"))
            show(found.row(), render(found), request.json)
            return 0
        try:
            with Step("judge") as step:
                result = judge_again(
                    root, settings, coverage_floor=share(floor), progress=step.count("verdicts")
                )
        except BudgetError as fault:
            show_scores(fault.result, root, request.json)
            raise
        show_scores(result, root, request.json)
    return 0


def _prepare_first(request: Request, settings: StageSettings) -> StageSettings:
    """A dataset yaml in the mixture is prepared (or found prepared) before the stage."""
    from raypipe.prepare.run import prepare as run

    parts = []
    for part in settings.mixture:
        if part.data.endswith((".yaml", ".yml")):
            dataset = load(DatasetSettings, part.data)
            _draw_if_asked(dataset)
            with _recorded(request, dataset.out), Step(f"prepare {dataset.name}") as step:
                run(dataset, progress=step.lines)
            part = part.model_copy(update={"data": dataset.out})
        parts.append(part)
    return settings.model_copy(update={"mixture": parts})


def _draw_if_asked(settings: DatasetSettings) -> None:
    if settings.drawn is not None:
        from raypipe.demo.data import draw_data_root

        draw_data_root(Path(local(settings.data_root)), settings.drawn)
