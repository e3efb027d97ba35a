"""Counters of this worker, which the Ray dashboard and Prometheus show."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from raypipe.records import Medium, Prediction, Rejection

SECONDS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]


def count_media(run: str, benchmark: str, media: Iterable[Medium | Rejection]) -> None:
    """Counts media that were read, by outcome: ok, or the reason why not."""
    for outcome, count in Counts(m.reason if isinstance(m, Rejection) else "ok" for m in media).items():
        _metrics()["media"].inc(count, {"run": run, "benchmark": benchmark, "outcome": str(outcome)})


def count_answers(run: str, benchmark: str, predictions: Sequence[Prediction], took_s: float) -> None:
    """Counts what became of a unit's questions, and how long it had the model."""
    for outcome, count in Counts(str(p.outcome) for p in predictions).items():
        _metrics()["questions"].inc(count, {"run": run, "benchmark": benchmark, "outcome": outcome})
    tokens = sum(p.new_tokens for p in predictions)
    if tokens:  # Ray refuses to add nothing
        _metrics()["tokens"].inc(tokens, {"run": run, "benchmark": benchmark})
    _metrics()["seconds"].observe(took_s, {"run": run, "benchmark": benchmark})


@cache
def _metrics() -> Mapping[str, Any]:
    from ray.util.metrics import Counter, Histogram

    tags, both = ("run", "benchmark"), ("run", "benchmark", "outcome")
    return {
        "media": Counter("raypipe_evaluate_media", "media read, by outcome (ok or the reason)", both),
        "questions": Counter("raypipe_evaluate_questions", "questions by outcome", both),
        "tokens": Counter("raypipe_evaluate_new_tokens", "tokens generated", tags),
        "seconds": Histogram("raypipe_evaluate_unit_seconds", "seconds to answer a unit", SECONDS, tags),
    }
