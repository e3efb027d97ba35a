"""Scores and coverage of predictions and verdicts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.errors import BudgetError, ServiceError
from raypipe.evaluate.certificate import Certificate
from raypipe.grading.judging import outcome_with
from raypipe.records import Outcome, Prediction, Verdict
from raypipe.store.run import Run
from raypipe.store.verify_evaluate import SCORES, seal_scores

ANSWERED = (Outcome.OK, Outcome.EMPTY)


def summarise(
    predictions: Sequence[Prediction],
    verdicts: Mapping[str, Sequence[Verdict]],
    missing: Mapping[str, str],
    *,
    judged: bool,
    splits: Mapping[str, str],
    certificate: Certificate | None = None,
) -> dict[str, Any]:
    """Scores and coverage by benchmark; an answer without a verdict is missing, never zero.

    A benchmark that can be graded neither by a rule nor by a live judge has answers only, and no score.

    Args:
        verdicts: by question id; only those on these very answers.
        judged: whether a judge was asked.
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
        waits = benchmark.rule is None and benchmark.rubric is not None and not judged
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
            "outcomes": _outcomes(items, verdicts, judged and benchmark.rule is None and not answers_only),
            **({"flagged": _flagged(items, verdicts)} if judged and benchmark.rubric is not None else {}),
        }
    certified = {"certificate": certificate.row()} if certificate else {}
    return {"benchmarks": scores, "coverage": coverage, "missing_benchmarks": dict(missing), **certified}


def write_scores(run: Run, summary: Mapping[str, Any]) -> None:
    seal_scores(run, (json.dumps(summary, indent=1, sort_keys=True) + "\n").encode())


def count_a_judge(run: Run) -> bool:
    """Whether the scores of a run, as they lie there, are those of judged answers."""
    if not run.store.exists(SCORES):
        return False
    try:
        coverage = json.loads(run.store.read(SCORES))["coverage"]
    except (ValueError, KeyError):  # damaged, and written anew
        return False
    return any("flagged" in c for c in coverage.values())


def check_coverage(
    run: Run, summary: dict[str, Any], floor: float, silence: ServiceError | None = None
) -> None:
    """Refuses, after the commit, a run with too many questions unanswered or without a verdict.

    Args:
        silence: why the judge counts as down.

    Raises:
        BudgetError: a benchmark is under the floor; it says whether answers or verdicts are lacking.
        ServiceError: the same, where it is verdicts and the judge is down.
    """
    under = {n: c for n, c in summary["coverage"].items() if c["share"] < floor}
    if not under:
        return
    answers = sum(c["questions"] - c["answered"] for c in under.values())
    verdicts = sum(c["answered"] - c["counted"] for c in under.values())
    if verdicts and silence:
        raise silence
    lacking, remedies = [], []
    if answers:
        lacking.append(f"{answers} without an answer")
        remedies.append("look at quarantine.jsonl there")
    if verdicts:
        lacking.append(f"{verdicts} without a verdict{_lost(under)}")
        remedies.append("see that the judge works")
    listed = "; ".join(f"{n} {c['counted']} of {c['questions']}" for n, c in sorted(under.items()))
    raise BudgetError(
        f"coverage is under the floor of {100 * floor:g} %: {listed} ({', '.join(lacking)}); "
        f"all answers are committed in {run.store.root}",
        f"{', '.join(remedies)}, run the same command again, or lower coverage_floor=",
        summary,
    )


def _lost(coverage: Mapping[str, Any]) -> str:
    """What the judge did instead of giving a verdict."""
    kinds = (Outcome.JUDGE_FAILED, Outcome.JUDGE_UNREADABLE)
    found = {str(k): sum(c["outcomes"].get(str(k), 0) for c in coverage.values()) for k in kinds}
    said = ", ".join(f"{count} {kind}" for kind, count in found.items() if count)
    return f" of the judge: {said}" if said else ""


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """A metric without an answer has no value; JSON has no word for NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _graded(
    benchmark: benchmarks.Benchmark, prediction: Prediction, verdicts: Mapping[str, Sequence[Verdict]]
) -> benchmarks.Graded:
    return benchmarks.grade_answer(benchmark, prediction, verdicts.get(prediction.question_id))


def _outcomes(
    items: Sequence[Prediction], verdicts: Mapping[str, Sequence[Verdict]], by_judge: bool
) -> dict[str, int]:
    """How many questions ended how; with ``by_judge`` an answer that no verdict is on did not end well."""
    ended: Counter[str] = Counter()
    for prediction in items:
        mine = verdicts.get(prediction.question_id, ())
        lacks = by_judge and not mine and prediction.outcome in ANSWERED
        ended[str(Outcome.JUDGE_FAILED if lacks else outcome_with(prediction, mine))] += 1
    return dict(ended)


def _flagged(items: Sequence[Prediction], verdicts: Mapping[str, Sequence[Verdict]]) -> int:
    """Answers with something in them that was aimed at the judge."""
    return sum(any(v.flags for v in verdicts.get(p.question_id, ())) for p in items)
