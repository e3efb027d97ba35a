"""What became of a search's trials, read from their run folders: rows, the winner, a table for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raypipe.settings import TuneSettings
from raypipe.store.files import Store
from raypipe.store.journal import rows as rows_of
from raypipe.store.run import COMMIT
from raypipe.train import scored
from raypipe.train.metrics import METRICS
from raypipe.train.space import Trial

STOPPED, FAILED = "stopped.json", "failed.json"
DONE, EARLY, BROKEN, OPEN = "done", "stopped early", "failed", "not finished"


@dataclass(frozen=True)
class Outcome:
    """One trial: where it stands, its validations as (step, value), how many steps it trained."""

    trial: Trial
    status: str
    reason: str
    curve: tuple[tuple[int, float], ...]
    steps: int

    @property
    def over(self) -> bool:
        return self.status in (DONE, EARLY)

    def best(self, mode: str) -> tuple[int, float] | None:
        """The best validation, of equals the earlier."""
        sign = 1.0 if mode == "min" else -1.0
        return min(self.curve, key=lambda point: (sign * point[1], point[0]), default=None)

    def row(self, settings: TuneSettings) -> dict[str, Any]:
        best = self.best(settings.mode)
        return {
            "id": self.trial.id,
            "settings": self.trial.values,
            "status": self.status,
            "reason": self.reason,
            "metric": settings.metric,
            "value": best[1] if best else None,
            "at_step": best[0] if best else None,
            "steps": self.steps,
            "curve": [list(point) for point in self.curve],
            "out": self.trial.stage.out,
        }


def outcome_of(trial: Trial, metric: str) -> Outcome:
    """Reads a trial's folder; one that has none is not finished."""
    store = Store(trial.stage.out)
    rows = scored.rows(store)
    values = [(int(r["step"]), scored.value_of(r, metric)) for r in rows]
    faults = [str(r["fault"]) for r in rows if r.get("fault")]
    curve = tuple((step, value) for step, value in values if value is not None)
    status, reason = OPEN, ""
    if store.exists(COMMIT) and curve:
        status = DONE
    elif store.exists(COMMIT):
        status, reason = BROKEN, f"trained, and never scored: {faults[-1] if faults else 'no value'}"
    elif store.exists(STOPPED):
        status = EARLY
    elif store.exists(FAILED):
        status, reason = BROKEN, str(json.loads(store.read(FAILED))["reason"])
    return Outcome(trial, status, reason, curve, _steps(store))


def ranked(outcomes: Sequence[Outcome], mode: str) -> list[Outcome]:
    """The best first; of equals the one that started earlier; those without a value last."""
    sign = 1.0 if mode == "min" else -1.0

    def key(place: int) -> tuple[bool, float, int]:
        best = outcomes[place].best(mode) if outcomes[place].over else None
        return (best is None, sign * best[1] if best else 0.0, place)

    return [outcomes[place] for place in sorted(range(len(outcomes)), key=key)]


def winner_of(outcomes: Sequence[Outcome], mode: str) -> Outcome | None:
    first = next(iter(ranked(outcomes, mode)), None)
    return first if first is not None and first.over and first.curve else None


def overrides_of(values: dict[str, Any]) -> list[str]:
    """Settings as the command line takes them."""
    return [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()
    ]


def table(result: dict[str, Any]) -> str:
    """One line a trial of search.json, the best first; below them why trials failed."""
    names = list(result["trials"][0]["settings"])
    lines = [[result["metric"], "at step", "steps", "status", *names]]
    for row in result["trials"]:
        value = ["-", "-"] if row["value"] is None else [f"{row['value']:.4f}", str(row["at_step"])]
        chosen = [_short(row["settings"][name]) for name in names]
        lines.append([*value, str(row["steps"]), row["status"], *chosen])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    failed = [r for r in result["trials"] if r["status"] == BROKEN]
    return "\n".join(
        shown + [f"failed: {' '.join(overrides_of(r['settings']))}: {r['reason']}" for r in failed]
    )


def _short(value: Any) -> str:
    return (
        f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )


def _steps(store: Store) -> int:
    found = [row["step"] for row in rows_of(store, METRICS) if row is not None]
    return int(found[-1]) if found else 0
