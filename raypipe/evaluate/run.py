"""The evaluate verb: questions -> predictions -> verdicts -> scores; resumes by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.cluster import require, unwrapped
from raypipe.errors import BudgetError
from raypipe.evaluate.plan import Unit, asking_for, choose_benchmarks, plan_units
from raypipe.evaluate.read import pack_media, read_media
from raypipe.evaluate.work import PREDICTIONS, THUMBS, Answerer
from raypipe.judge.run import judge_run
from raypipe.model.build import Card, folder_of, weights_fingerprint
from raypipe.records import (
    PREDICTION_SCHEMA,
    THUMBS_SCHEMA,
    Outcome,
    Prediction,
    Reason,
    Rejection,
    Verdict,
    predictions_of,
)
from raypipe.settings import EvaluateSettings, JudgeSettings, local
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from raypipe.store.run import SETTINGS, Manifest, Progress, Run
from raypipe.store.shards import Shard

ANSWERED = (Outcome.OK, Outcome.EMPTY)
READ_MEMORY = 512 << 20  # bytes; asked for reading alone, so that Ray does not fuse it into the model's actor
Executor = Callable[[list[Unit], EvaluateSettings, Progress | None], None]


def evaluate(
    settings: EvaluateSettings,
    *,
    progress: Progress | None = None,
    judge_progress: Progress | None = None,
    execute: Executor | None = None,
) -> dict[str, Any]:
    """Evaluates one model, or continues it.

    Args:
        progress: called with (questions answered, questions in all).
        judge_progress: the same for verdicts.
        execute: what carries out the units; Ray Data unless said otherwise.

    Returns:
        {"benchmarks": {name: [score, ...]}, "coverage": {name: {...}}, "missing_benchmarks": {name: path}}

    Raises:
        RequestError: unknown benchmark, missing model or data.
        BudgetError: a benchmark's coverage is under the floor; everything answered is committed.
    """
    settings = settings.model_copy(
        update={
            "out": local(settings.out),
            "eval_root": local(settings.eval_root),
            "model": local(settings.model),
            "model_base": local(settings.model_base) if settings.model_base else None,
        }
    )
    chosen, missing = choose_benchmarks(settings)
    card = Card.read(folder_of(settings.model))
    weights = weights_fingerprint(settings.model, settings.model_base)
    units: list[Unit] = []
    for benchmark in chosen:
        questions = benchmark.questions(settings.eval_root)[: settings.limit]
        asking = asking_for(benchmark, settings, weights, card)
        root = Path(settings.eval_root)
        if benchmark.unpack is not None:
            benchmark.unpack(root)  # before the plan, which looks at the media's sizes
        units += plan_units(benchmark.name, questions, asking, settings.media_per_unit, root)
    run = Run.start(settings.out, "evaluate", settings)  # last: a wrong request leaves no folder behind
    ledger = Ledger(run.store, PREDICTIONS, PREDICTION_SCHEMA)
    done = ledger.names() - _failed(ledger)
    todo = [u for u in units if u.id not in done]
    if todo or len(done) > len(units):
        run.reopen()
        _keep_only(run.store, done & {u.id for u in units})
    if todo:
        (execute or on_ray)(todo, settings, progress)
    predictions = predictions_of(ledger.rows())
    _commit(run, units, predictions, missing)
    splits, judged = settings.splits, settings.judge is not None
    verdicts = _judge(run, predictions, settings.judge, splits, judge_progress) if settings.judge else {}
    summary = summarise(predictions, verdicts, missing, judged=judged, splits=splits)
    _write_scores(run, summary)
    check_coverage(run, summary, settings.coverage_floor)
    return summary


def judge_again(
    root: str,
    settings: JudgeSettings,
    *,
    coverage_floor: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judges the open answers of a finished evaluation, by its judge again or by another one.

    What this judge has said before is not asked again. The run's judge and scores become these.
    """
    run = Run.open(root, "evaluate")
    predictions = predictions_of(Ledger(run.store, PREDICTIONS, PREDICTION_SCHEMA).rows())
    body = run.settings
    splits = body["settings"].get("splits", {})
    verdicts = _judge(run, predictions, settings, splits, progress)
    body["settings"]["judge"] = settings.model_dump(mode="json")
    run.store.replace(
        SETTINGS, (json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    )
    missing = run.manifest["facts"]["missing_benchmarks"]
    summary = summarise(predictions, verdicts, missing, judged=True, splits=splits)
    _write_scores(run, summary)
    stored = body["settings"]["coverage_floor"]
    check_coverage(run, summary, stored if coverage_floor is None else coverage_floor)
    return summary


def on_ray(units: list[Unit], settings: EvaluateSettings, progress: Progress | None) -> None:
    """Carries out units in one Ray Data stream: reading as CPU tasks, answering in model actors."""
    import ray.data

    require(settings.actors * settings.actor_cpus, settings.actors * settings.actor_gpus, "the evaluation")
    root, limits = settings.eval_root, settings.limits

    def read(row: dict[str, Any]) -> dict[str, Any]:
        return {"unit": row["unit"], **pack_media(read_media(Unit.unpack(row["unit"]), root, limits))}

    stream = (
        ray.data.from_items([{"unit": u.pack()} for u in units], override_num_blocks=len(units))
        .map(read, num_cpus=1, memory=READ_MEMORY)
        .map(
            Answerer,
            fn_constructor_args=(settings,),
            compute=ray.data.ActorPoolStrategy(size=settings.actors),
            num_cpus=settings.actor_cpus,
            num_gpus=settings.actor_gpus,
        )
    )
    total, answered = sum(u.count for u in units), 0
    with unwrapped("evaluate"):
        for row in stream.iter_rows():
            answered += int(row["count"])
            if progress:
                progress(answered, total)


def in_process(units: list[Unit], settings: EvaluateSettings, progress: Progress | None) -> None:
    """Carries out units one after another in this process (tests, and small runs without Ray)."""
    answerer = Answerer(settings)
    total, answered = sum(u.count for u in units), 0
    for unit in units:
        row = {"unit": unit.pack(), **pack_media(read_media(unit, settings.eval_root, settings.limits))}
        answered += int(answerer(row)["count"])
        if progress:
            progress(answered, total)


def summarise(
    predictions: list[Prediction],
    verdicts: dict[str, Verdict],
    missing: dict[str, str],
    *,
    judged: bool,
    splits: Mapping[str, str],
) -> dict[str, Any]:
    """Scores and coverage by benchmark; an answer without a verdict is missing, never zero.

    A benchmark that can be graded neither by a rule nor by a live judge has answers only, and no score.
    """
    by_benchmark: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_benchmark.setdefault(prediction.benchmark, []).append(prediction)
    scores: dict[str, Any] = {}
    coverage: dict[str, Any] = {}
    for name, items in sorted(by_benchmark.items()):
        benchmark = benchmarks.load(name, splits.get(name))
        answered = [p for p in items if p.outcome in ANSWERED]
        answers_only = benchmark.rule is None and benchmark.rubric is None
        waits = benchmark.rubric is not None and not judged
        if waits or answers_only:
            counted = len(answered)
        else:
            graded = [_graded(benchmark, p, verdicts) for p in items]
            counted = sum(1 for g in graded if g.value is not None)
            scores[name] = [_finite(asdict(s)) for s in benchmarks.scores(benchmark, graded)]
        coverage[name] = {
            "questions": len(items),
            "answered": len(answered),
            "counted": counted,
            "share": counted / len(items) if items else 0.0,
            "waits_for_judge": waits,
            "answers_only": answers_only,
            **({"split": benchmark.split} if benchmark.split else {}),
            "outcomes": _outcomes(items, verdicts),
        }
    return {"benchmarks": scores, "coverage": coverage, "missing_benchmarks": missing}


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """A metric without an answer has no value; JSON has no word for NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def check_coverage(run: Run, summary: dict[str, Any], floor: float) -> None:
    """Refuses, after the commit, a run with too many questions unanswered or without a verdict."""
    under = {n: c for n, c in summary["coverage"].items() if c["share"] < floor}
    if under:
        listed = "; ".join(f"{n} {c['counted']} of {c['questions']}" for n, c in sorted(under.items()))
        raise BudgetError(
            f"coverage is under the floor of {100 * floor:g} %: {listed}; "
            f"all answers are committed in {run.store.root}",
            "look at quarantine.jsonl there, run the same command again, or lower coverage_floor=",
            summary,
        )


def _graded(benchmark: Any, prediction: Prediction, verdicts: dict[str, Verdict]) -> Any:
    return benchmarks.grade_answer(benchmark, prediction, verdicts.get(prediction.question_id))


def _outcomes(items: list[Prediction], verdicts: dict[str, Verdict]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for prediction in items:
        verdict = verdicts.get(prediction.question_id)
        outcome = verdict.outcome if verdict and verdict.outcome is not Outcome.OK else prediction.outcome
        counts[str(outcome)] = counts.get(str(outcome), 0) + 1
    return counts


def _failed(ledger: Ledger) -> set[str]:
    """Segments with a question that the model could not be asked: what refused may not refuse again."""
    return {n for n in ledger.names() if any(r["outcome"] == Outcome.FAILED for r in ledger.segment(n))}


def _keep_only(store: Store, units: set[str]) -> None:
    """Removes the segments of another plan (an older checkpoint) and of questions to ask again."""
    for folder in (PREDICTIONS, THUMBS):
        for name in store.list(folder):
            if PurePosixPath(name).stem not in units:
                store.delete(name)


def _commit(run: Run, units: list[Unit], predictions: list[Prediction], missing: dict[str, str]) -> None:
    unanswered = [p for p in predictions if p.outcome not in ANSWERED]
    rejections = [_rejection(p) for p in unanswered]
    counts = {u.id: u.count for u in units}
    media = {u.id: sum(1 for g in u.groups if g.medium) for u in units}
    files = [run.entry(f"{PREDICTIONS}/{i}.arrow", n) for i, n in counts.items()]
    files += [
        run.entry(n, Shard(run.store, n, THUMBS_SCHEMA).table().num_rows)
        for n in run.store.list(THUMBS, ".arrow")
    ]
    manifest = Manifest(
        kind="evaluate",
        files=files,
        totals={
            "inputs": len(predictions),
            "ok": len(predictions) - len(unanswered),
            "quarantined": len(unanswered),
            "media": sum(media.values()),
        },
        facts={"missing_benchmarks": missing, "weights": units[0].asking.weights if units else ""},
    )
    run.commit(manifest, rejections)


def _rejection(prediction: Prediction) -> Rejection:
    reason, _, detail = prediction.detail.partition(": ")
    known = reason if reason in set(Reason) else Reason.MEDIA_UNREADABLE
    named = Reason(known) if prediction.outcome is Outcome.MEDIUM_BAD else Reason.GENERATION_FAILED
    return Rejection(
        prediction.question_id, "question", named, detail or prediction.detail, prediction.medium
    )


def _write_scores(run: Run, summary: dict[str, Any]) -> None:
    run.store.replace("scores.json", (json.dumps(summary, indent=1, sort_keys=True) + "\n").encode())


def _judge(
    run: Run,
    predictions: list[Prediction],
    settings: JudgeSettings,
    splits: Mapping[str, str],
    progress: Progress | None,
) -> dict[str, Verdict]:
    names = {p.benchmark for p in predictions}
    rubrics = {name: benchmarks.load(name, splits.get(name)).rubric for name in names}
    open_answers = [p for p in predictions if rubrics[p.benchmark] and p.outcome in ANSWERED]
    if not open_answers:
        return {}
    verdicts = judge_run(run.store, open_answers, rubrics.get, settings, progress=progress)
    return {v.question_id: v for v in verdicts}
