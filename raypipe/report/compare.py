"""The paired comparison of two evaluate runs, benchmark by benchmark."""

from __future__ import annotations

from typing import Any

from raypipe.errors import RequestError
from raypipe.report.collect import read_evaluation
from raypipe.report.results import benchmark_entries
from raypipe.store.run import Run


def compare(run_a: str, run_b: str) -> dict[str, Any]:
    """Compares two evaluate runs on the questions that both have a grade for.

    Returns:
        ``a`` and ``b`` (the runs' paths) and, in ``benchmarks``, for each benchmark in both: the primary
        metric's score in each and ``change``: difference (b minus a) of the per-question scores with its 95 %
        interval clustered by medium, p, n, the flips both ways and their sign test; None when no question
        has a grade in both. ``only_a`` and ``only_b`` name the benchmarks that cannot be compared.

    Raises:
        RequestError: not evaluate runs, not finished ones, or no benchmark is in both.
    """
    for path in (run_a, run_b):
        Run.open(path, "evaluate")
    runs = [read_evaluation("a", run_a), read_evaluation("b", run_b)]
    shared = runs[0].predictions.keys() & runs[1].predictions.keys()
    if not shared:
        raise RequestError(
            f"no benchmark is in both {run_a} and {run_b}", "evaluate both models on the same benchmarks"
        )
    entries = [e for e in benchmark_entries(runs, "a") if e["name"] in shared]
    return {
        "a": runs[0].header.path,
        "b": runs[1].header.path,
        "benchmarks": [_compared(entry) for entry in entries],
        "only_a": sorted(runs[0].predictions.keys() - shared),
        "only_b": sorted(runs[1].predictions.keys() - shared),
    }


def _compared(entry: dict[str, Any]) -> dict[str, Any]:
    primary = entry["metrics"][0]
    change = entry["changes"][0] if entry["changes"] else None
    return {
        "benchmark": entry["name"],
        "title": entry["title"],
        "metric": primary["metric"],
        "bounds": primary["bounds"],
        "a": primary["scores"]["a"],
        "b": primary["scores"]["b"],
        "change": {k: v for k, v in change.items() if k not in ("from", "to")} if change else None,
    }
