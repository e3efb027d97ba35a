"""The report verb: runs in, ``report.html`` and ``report.json`` out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from raypipe import __version__
from raypipe.errors import RequestError, nearest
from raypipe.report import html
from raypipe.report.collect import EvaluationRun, PrepareRun, read_evaluation, read_prepare, read_training
from raypipe.report.compare import compare
from raypipe.report.curves import training_entry
from raypipe.report.listing import export_command
from raypipe.report.provenance import evaluation_entry, provenance
from raypipe.report.results import benchmark_entries, headline
from raypipe.report.samples import read_strips
from raypipe.store.files import Store

__all__ = ["compare", "report_runs"]

SCHEMA_VERSION = 1
HTML_FILE, JSON_FILE = "report.html", "report.json"

Named = Sequence[tuple[str, str]]


def report_runs(
    evaluations: Named,
    *,
    trainings: Named = (),
    prepares: Named = (),
    baseline: str | None = None,
    out: str,
    title: str = "raypipe report",
    notes: Sequence[str] = (),
    checks: Sequence[Mapping[str, Any]] = (),
    published: bool = True,
) -> dict[str, Any]:
    """Writes a report of some runs; the same runs give the same bytes.

    Args:
        evaluations: (label, path) of evaluate runs, in the order they are shown.
        trainings: (label, path) of train runs, in the order they ran.
        prepares: (label, path) of prepare runs.
        baseline: the label that the other evaluations are compared with.
        out: the folder that gets report.html and report.json.
        title: the report's heading.
        notes: sentences shown under the heading.
        checks: what the caller checked: ``{"name", "passed", "detail"}`` each.
        published: show the published reference scores; false where the questions are not the benchmarks' own.

    Returns:
        What report.json holds; ``paths`` says where both files are.

    Raises:
        RequestError: no evaluation, a label used twice, an unknown baseline, a path that is no such run.
    """
    _check_labels(evaluations, baseline)
    runs = [read_evaluation(label, path) for label, path in evaluations]
    stages = [read_training(label, path) for label, path in trainings]
    prepared = [read_prepare(label, path) for label, path in prepares]
    headers = [*(p.header for p in prepared), *(t.header for t in stages), *(r.header for r in runs)]
    benchmarks = benchmark_entries(runs, baseline)
    if not published:
        benchmarks = [_without_published(b) for b in benchmarks]
    store = Store(out)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "raypipe": __version__,
        "title": title,
        "notes": [*notes, *_own_notes(runs, benchmarks)],
        "checks": [_check(c) for c in checks],
        "baseline": baseline,
        "headline": headline(benchmarks, [r.label for r in runs]),
        "evaluations": [evaluation_entry(r) for r in runs],
        "benchmarks": benchmarks,
        "trainings": [training_entry(t) for t in stages],
        "prepares": [_prepare_entry(p) for p in prepared],
        "reproducibility": provenance(headers),
        "paths": {"html": store.path(HTML_FILE), "json": store.path(JSON_FILE)},
    }
    page = html.render(report, read_strips(runs, benchmarks))
    store.replace(JSON_FILE, _json(report))
    store.replace(HTML_FILE, page.encode("utf-8", errors="replace"))
    return report


def _check_labels(evaluations: Named, baseline: str | None) -> None:
    labels = [label for label, _ in evaluations]
    if not labels:
        raise RequestError("a report needs at least one evaluate run", "raypipe report RUN...")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise RequestError(f"two evaluations are both called '{twice[0]}'", "give each its own label")
    if baseline is not None and baseline not in labels:
        raise RequestError(f"no evaluation is called '{baseline}'", nearest(baseline, labels))


def _own_notes(runs: Sequence[EvaluationRun], benchmarks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before reading a number."""
    notes = [
        f"{run.label} is not finished: its scores cover the questions answered so far."
        for run in runs
        if not run.header.complete
    ]
    for run in runs:
        judged = {name for name, _ in run.verdicts}
        unjudged = [name for name in run.predictions if name.partition(":")[0] not in judged]
        waiting = [b["title"] for b in benchmarks if b["judged"] and b["name"] in unjudged]
        if waiting:
            notes.append(f"{run.label} has not been judged yet on {', '.join(waiting)}.")
    for b in benchmarks:
        if b["answers_only"]:
            command = export_command(b["name"].partition(":")[0], "RUN")
            notes.append(f"{b['title']} has answers only: {command}")
    limits = sorted({str(r.header.settings["limit"]) for r in runs if r.header.settings.get("limit")})
    if limits:
        notes.append(f"Only the first {' or '.join(limits)} questions of each benchmark were asked.")
    return notes


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": str(check["name"]),
        "passed": bool(check["passed"]),
        "detail": str(check.get("detail", "")),
    }


def _prepare_entry(run: PrepareRun) -> dict[str, Any]:
    return {
        "label": run.header.label,
        "path": run.header.path,
        "complete": run.header.complete,
        "totals": run.totals,
        "reasons": run.reasons,
        "examples": run.examples,
    }


def _without_published(benchmark: dict[str, Any]) -> dict[str, Any]:
    metrics = [{**m, "published": None} for m in benchmark["metrics"]]
    return {**benchmark, "metrics": metrics, "published_source": ""}


def _json(value: Any) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", errors="replace")
