"""The evaluate verb: questions -> predictions -> verdicts -> scores; resumes by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.cluster import require_shared
from raypipe.evaluate.attempts import forget
from raypipe.evaluate.commit import certificate_of, commit, held_units, ledger_of, media_of, predictions_in
from raypipe.evaluate.engines import look_of
from raypipe.evaluate.judging import Judging, is_judged, verdicts_in, with_judge_before
from raypipe.evaluate.plan import Plan, Unit, located, make_plan
from raypipe.evaluate.progress import Tally
from raypipe.evaluate.scores import check_coverage, summarise, write_scores
from raypipe.evaluate.work import Done, Work, in_process
from raypipe.records import Prediction, predictions_of
from raypipe.settings import EvaluateSettings, JudgeSettings
from raypipe.store.files import Store
from raypipe.store.lease import Lease
from raypipe.store.run import Progress as Counted
from raypipe.store.run import Run

__all__ = ["evaluate", "in_process", "judge_again"]

Executor = Callable[[Sequence[Unit], Work], Iterable[Done]]
Progress = Callable[[Tally], None]


def evaluate(
    settings: EvaluateSettings, *, progress: Progress | None = None, execute: Executor | None = None
) -> dict[str, Any]:
    """Evaluates one model, or continues it.

    Args:
        progress: called with the state of the work whenever a unit or a verdict is done.
        execute: what carries out the units; Ray Data unless said otherwise.

    Returns:
        {"benchmarks": {name: [score, ...]}, "coverage": {name: {...}}, "missing_benchmarks": {name: path}},
        "certificate": what asking a sample once more, one at a time, found, and with prepare runs
        "media": {"all": n, "prepared": those that were not decoded}

    Raises:
        RequestError: unknown benchmark, missing model or data, no key for the judge, or a local path that not
            all nodes share.
        ServiceError: the judge refuses or is down, or another driver is at work on the folder. All answers
            are committed where it is the judge.
        BudgetError: a benchmark's coverage is under the floor; everything answered is committed.
    """
    settings = located(settings)
    plan = make_plan(settings)
    if execute is None:
        require_shared([settings.out], _read_by(settings))
    tally = Tally.start(plan.units)
    tell = progress or (lambda _: None)

    def judged_so_far(done: int, total: int) -> None:
        tally.judged, tally.to_judge, tally.cost_usd = done, total, judging.spent_usd
        tell(tally)

    with contextlib.ExitStack() as stack:
        judging = stack.enter_context(
            Judging(
                Store(settings.out),
                plan.benchmarks,
                settings.judge,
                use_ray=execute is None,
                progress=judged_so_far,
            )
        )
        # Last: a wrong request leaves no folder behind.
        run = Run.start(settings.out, "evaluate", with_judge_before(settings))
        lease = stack.enter_context(Lease.take(run.store))
        held = _go_on(run, plan, judging, tally)
        for done in _carry_out(settings, plan, held, execute):
            judging.add(done.predictions)
            tally.add(done)
            lease.check()
            tell(tally)
        forget(run.store)
        predictions = predictions_in(run)
        lease.seal()
        commit(run, plan, predictions)
        summary = _conclude(run, settings, plan, predictions, judging)
        lease.finish()
    check_coverage(run, summary, settings.coverage_floor, judging.silence)
    return summary


def _read_by(settings: EvaluateSettings) -> list[str]:
    """The files and folders that workers read."""
    served = settings.engine == "served"
    models = [] if served else [settings.model, settings.model_base or ""]
    return [*models, settings.eval_root, *settings.prepared]


def judge_again(
    root: str,
    settings: JudgeSettings,
    *,
    coverage_floor: float | None = None,
    progress: Counted | None = None,
) -> dict[str, Any]:
    """Judges the open answers of a finished evaluation, by its judge again or by another one.

    What this judge has said before is not asked again. The run's judge and scores become these.
    """
    run = Run.open(root, "evaluate")
    stored = run.settings["settings"]
    splits = stored.get("splits", {})
    predictions = predictions_in(run)
    asked = {name: benchmarks.load(name, splits.get(name)) for name in {p.benchmark for p in predictions}}
    with (
        Lease.take(run.store),
        Judging(run.store, asked, settings, progress=progress, at_once=False) as judging,
    ):
        judging.add(predictions)
        verdicts = judging.finish()
        run.restate(judge=settings.model_dump(mode="json"))
        missing = run.manifest["facts"]["missing_benchmarks"]
        certificate = certificate_of(run)
        summary = summarise(
            predictions, verdicts, missing, judged=True, splits=splits, certificate=certificate
        )
        summary |= media_of(run)
        write_scores(run, summary)
    floor = stored["coverage_floor"] if coverage_floor is None else coverage_floor
    check_coverage(run, summary, floor, judging.silence)
    return summary


def _go_on(run: Run, plan: Plan, judging: Judging, tally: Tally) -> set[str]:
    """Takes up what is committed: the units that are held, whose answers the judge gets first."""
    held = held_units(run, plan)
    tally.holds(held)
    for unit in plan.units:
        if unit.id in held and judging.wants(unit.benchmark):
            judging.add(predictions_of(ledger_of(run).segment(unit.id)))
    return held


def _conclude(
    run: Run, settings: EvaluateSettings, plan: Plan, predictions: Sequence[Prediction], judging: Judging
) -> dict[str, Any]:
    """Scores the committed answers. A start without a judge keeps what one has said of these answers."""
    judged = settings.judge is not None or is_judged(run)
    verdicts = verdicts_in(run) if settings.judge is None else judging.finish()
    if not judged and run.settings["settings"].get("judge") is not None:
        run.restate(judge=None)  # the answers are others now than those that were judged
    summary = summarise(
        predictions,
        verdicts,
        plan.missing,
        judged=judged,
        splits=settings.splits,
        certificate=certificate_of(run),
    )
    summary |= media_of(run)
    write_scores(run, summary)
    return summary


def _carry_out(
    settings: EvaluateSettings, plan: Plan, held: set[str], execute: Executor | None
) -> Iterator[Done]:
    """Carries out what is not committed yet."""
    todo = [u for u in plan.units if u.id not in held]
    if not todo:
        return
    if execute is None:
        from raypipe.evaluate.on_ray import on_ray

        execute = on_ray
    work = Work(settings, plan.tree.media, plan.certified, plan.weights, look_of(settings))
    yield from execute(todo, work)
