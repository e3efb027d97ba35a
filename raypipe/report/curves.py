"""What a training stage's measurements say: the loss curve, smoothed and thinned, and its totals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from raypipe.report.collect import TrainingRun

POINTS = 300  # a curve in the report has at most so many points


def training_entry(run: TrainingRun) -> dict[str, Any]:
    """The report's entry of one training run."""
    measured = [(row["step"], float(row["loss"])) for row in run.steps if _finite(row.get("loss"))]
    steps, loss = [step for step, _ in measured], [value for _, value in measured]
    smoothed = smooth(loss)
    kept = thin(len(steps))
    last = run.steps[-1] if run.steps else {}
    settings = run.header.settings
    return {
        "label": run.header.label,
        "path": run.header.path,
        "stage": settings.get("name", ""),
        "learns": _learns(settings),
        "complete": run.header.complete,
        "steps": len(run.steps),
        "samples": last.get("samples"),
        "tokens": sum(row.get("tokens", 0) for row in run.steps),
        "epoch": last.get("epoch"),
        "loss_first": smoothed[0] if smoothed else None,
        "loss_last": smoothed[-1] if smoothed else None,
        "not_finite": len(run.steps) - len(measured),
        "step_s_median": _median(run.steps, "step_s"),
        "data_wait_share": _share(run.steps, "data_wait_s", "step_s"),
        "resumed_at": resumed_at(run.steps),
        "repeated_lines": run.repeated,
        "unreadable_lines": run.unreadable,
        "curve": {
            "step": [steps[i] for i in kept],
            "loss": [loss[i] for i in kept],
            "smoothed": [smoothed[i] for i in kept],
        },
    }


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential moving average with the start corrected, over about a twentieth of the run."""
    span = max(5.0, len(values) / 20)
    keep = 1.0 - 2.0 / (span + 1.0)
    out: list[float] = []
    total = weight = 0.0
    for value in values:
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out.append(total / weight)
    return out


def thin(length: int, points: int = POINTS) -> list[int]:
    """Positions of at most ``points`` values, evenly spread, the first and the last among them."""
    if length <= points:
        return list(range(length))
    return sorted({round(i * (length - 1) / (points - 1)) for i in range(points)})


def resumed_at(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The steps at which another attempt took over."""
    return [b["step"] for a, b in pairwise(rows) if a.get("attempt") != b.get("attempt")]


def _learns(settings: dict[str, Any]) -> dict[str, float]:
    """Which parts of the model learn, at which rate."""
    rates = {str(part): float(rate) for part, rate in (settings.get("rates") or {}).items()}
    lora = settings.get("lora")
    if lora:
        rates[f"language model, LoRA r={lora.get('r')}"] = float(lora.get("rate", 0.0))
    return rates


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _median(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [float(row[name]) for row in rows if _finite(row.get(name))]
    return statistics.median(values) if values else None


def _share(rows: Sequence[dict[str, Any]], part: str, whole: str) -> float | None:
    both = [(float(r[part]), float(r[whole])) for r in rows if _finite(r.get(part)) and _finite(r.get(whole))]
    total = sum(w for _, w in both)
    return min(1.0, sum(p for p, _ in both) / total) if total > 0 else None
