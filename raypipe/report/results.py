"""The scores of a report: every evaluation graded, scored and compared with the baseline.

No metric is computed here. Grades and scores come from ``raypipe.benchmark``, so a number in a
report is the number that ``raypipe score`` prints for the same answers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raypipe.benchmark import Benchmark, grade_answer, scores
from raypipe.grading.metrics import PERCENT, Graded, tabulate
from raypipe.grading.statistics import binomial_p_greater, paired_difference
from raypipe.records import Score
from raypipe.report.collect import EvaluationRun, benchmark_asked, judge_of
from raypipe.report.samples import sample_cap, sample_entries, worth_of


def graded_of(run: EvaluationRun, asked: str) -> dict[str, Graded]:
    """Every answer of a run to one benchmark, graded: by rule, by the judge's verdicts, or not at all."""
    benchmark = benchmark_asked(asked)
    out: dict[str, Graded] = {}
    for prediction in run.predictions.get(asked, []):
        verdicts = run.verdicts.get((benchmark.name, prediction.question_id))
        out[prediction.question_id] = grade_answer(benchmark, prediction, verdicts)
    return out


def benchmark_entries(runs: Sequence[EvaluationRun], baseline: str | None) -> list[dict[str, Any]]:
    """The report's entry of every benchmark that at least one evaluation was asked."""
    names = sorted({name for run in runs for name in run.predictions})
    cap = sample_cap(len(names))
    return [_entry(name, runs, baseline, cap) for name in names]


def _entry(asked: str, runs: Sequence[EvaluationRun], baseline: str | None, cap: int) -> dict[str, Any]:
    benchmark = benchmark_asked(asked)
    graded = {run.label: graded_of(run, asked) for run in runs}
    judges = {r.label: judge_of(r, benchmark.name) for r in runs} if benchmark.rubric is not None else {}
    changes = [
        {"from": baseline, "to": run.label, **change}
        for run in runs
        if baseline is not None
        and run.label != baseline
        and (change := paired_change(graded[baseline], graded[run.label])) is not None
    ]
    return {
        "name": asked,
        "title": benchmark.title,
        "primary": benchmark.primary,
        "judged": benchmark.rule is None and benchmark.rubric is not None,
        "answers_only": benchmark.rule is None and benchmark.rubric is None,
        "judges": {label: judge for label, judge in judges.items() if judge["name"]},
        "published_source": benchmark.published_source,
        "metrics": _metrics(benchmark, graded),
        "outcomes": {label: outcomes_of(rows) for label, rows in graded.items() if rows},
        "changes": changes,
        "samples": sample_entries(runs, asked, graded, baseline, cap),
    }


def outcomes_of(graded: Mapping[str, Graded]) -> dict[str, int]:
    """How many questions ended in each named outcome; the counts add up to the questions asked."""
    return dict(sorted(Counter(str(g.outcome) for g in graded.values()).items()))


def paired_change(before: Mapping[str, Graded], after: Mapping[str, Graded]) -> dict[str, Any] | None:
    """What changed between two evaluations on the questions that both have a value for.

    The difference is in percentage points of the per-question values (a judge's score counts as a share of
    the best score), after minus before. ``gained`` and ``lost`` count the questions that got better and
    worse, ``flips_p`` is their exact two-sided sign test.

    Returns:
        None when no question has a value in both.
    """
    a = {i: worth for i, g in before.items() if (worth := worth_of(g)) is not None}
    b = {i: worth for i, g in after.items() if (worth := worth_of(g)) is not None}
    shared = sorted(a.keys() & b.keys())
    if not shared:
        return None
    clusters = {i: after[i].medium for i in shared if after[i].medium}
    change = paired_difference(b, a, clusters)
    gained = sum(b[i] > a[i] for i in shared)
    lost = sum(b[i] < a[i] for i in shared)
    return {
        "difference": change.difference * 100,
        "low": change.low * 100,
        "high": change.high * 100,
        "p": change.p,
        "n": len(shared),
        "not_paired": len(before.keys() | after.keys()) - len(shared),
        "gained": gained,
        "lost": lost,
        "flips_p": min(1.0, 2 * binomial_p_greater(max(gained, lost), gained + lost, 0.5)),
    }


def headline(benchmarks: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """On how many benchmarks each evaluation is above, below or not told apart from the baseline."""
    rows = []
    for label in labels:
        changes = [c for b in benchmarks for c in b["changes"] if c["to"] == label]
        above = sum(c["low"] > 0 for c in changes)
        below = sum(c["high"] < 0 for c in changes)
        undecided = len(changes) - above - below
        if changes:
            rows.append({"label": label, "above": above, "below": below, "undecided": undecided})
    return rows


def _metrics(benchmark: Benchmark, graded: Mapping[str, Mapping[str, Graded]]) -> list[dict[str, Any]]:
    """One row per metric, the primary one first, with every evaluation's score."""
    by_label: dict[str, dict[str, Score]] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for label, rows in graded.items():
        answers = list(rows.values())
        by_label[label] = {s.metric: s for s in scores(benchmark, answers)} if answers else {}
        if answers:
            bounds |= {m.name: m.bounds for m in benchmark.measure(tabulate(answers))}
    names = dict.fromkeys([benchmark.primary, *(m for found in by_label.values() for m in found)])
    return [
        {
            "metric": name,
            "primary": name == benchmark.primary,
            "bounds": list(bounds.get(name, PERCENT)),
            "published": benchmark.published.get(name),
            "scores": {label: _score(found.get(name)) for label, found in by_label.items()},
        }
        for name in names
    ]


def _score(score: Score | None) -> dict[str, Any] | None:
    """A score as JSON holds it: numbers that are not finite are absent, never NaN."""
    if score is None:
        return None
    asked = score.n + score.missing
    return {
        "value": _finite(score.value) if score.n else None,
        "low": _finite(score.low) if score.n else None,
        "high": _finite(score.high) if score.n else None,
        "n": score.n,
        "missing": score.missing,
        "coverage": score.n / asked if asked else None,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
