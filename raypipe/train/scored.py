"""What validation has said of a run's checkpoints: one record each, a table of them, and the best.

Everything here is files of the run's store, so a driver that starts again, a training worker and a search
all see the same.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable
from typing import Any

from raypipe.errors import RequestError
from raypipe.settings import StageSettings, Validation
from raypipe.store.files import Store
from raypipe.train.status import Status

FOLDER, ROWS, BEST = "validation", "validation.jsonl", "best.json"
GO = "go.json"  # up to which step a stage that waits has been let go
LOSS = "loss"
HOLD_S = 0.2
_RECORD = re.compile(r"^(checkpoints|validation)/step-(\d+)\.json$")


def wanted(settings: StageSettings) -> bool:
    """Whether the stage is validated at all."""
    return settings.validation.fraction > 0 or bool(settings.validation.benchmarks)


def check(settings: StageSettings) -> None:
    """Refuses what can never be scored, before anything starts.

    Raises:
        RequestError: a period that is not one of checkpoints, or a metric that nothing measures.
    """
    chosen, every = settings.validation, settings.checkpoint.every_steps
    if chosen.every_steps is not None and chosen.every_steps % every:
        raise RequestError(
            f"validation.every_steps={chosen.every_steps} is no multiple of checkpoint.every_steps={every}",
            f"only checkpoints are validated: set it to {max(1, chosen.every_steps // every) * every}",
        )
    if settings.export == "best" and not wanted(settings):
        raise RequestError("export: best needs validation", "set validation.fraction=0.02")
    name, dot, _ = chosen.metric.partition(".")
    if wanted(settings) and chosen.metric == LOSS and not chosen.fraction:
        raise RequestError(
            "validation.metric is loss, and nothing is held out", "set validation.fraction, or another metric"
        )
    if wanted(settings) and chosen.metric != LOSS and not (dot and name in chosen.benchmarks):
        raise RequestError(
            f"validation.metric={chosen.metric} is measured by nothing",
            f"loss, or BENCHMARK.METRIC of {', '.join(chosen.benchmarks) or 'validation.benchmarks'}",
        )


def name_of(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}.json"


def committed(store: Store) -> list[int]:
    """The steps whose checkpoint is committed, ascending."""
    return _steps(store, "checkpoints")


def is_due(step: int, settings: StageSettings, last: int) -> bool:
    """Whether the checkpoint of a step is scored: each, or every so many, and always the last."""
    every = settings.validation.every_steps
    return wanted(settings) and (step == last or every is None or step % every == 0)


def due(store: Store, settings: StageSettings, last: int) -> list[int]:
    """Committed checkpoints that are to be scored and have not been, the oldest first."""
    done = set(_steps(store, FOLDER))
    return [s for s in committed(store) if s not in done and is_due(s, settings, last)]


def records(store: Store) -> list[dict[str, Any]]:
    """All records, by step; one that failed has a ``fault`` and no figures."""
    return [json.loads(store.read(name_of(step))) for step in _steps(store, FOLDER)]


def rows(store: Store) -> list[dict[str, Any]]:
    """The same from the table: one read, for those who look often."""
    try:
        return [json.loads(line) for line in store.read(ROWS).decode().splitlines()]
    except FileNotFoundError:
        return []


def put(store: Store, record: dict[str, Any], settings: StageSettings) -> None:
    """Commits the record of one checkpoint, then the table and the best, made anew from all records."""
    store.replace(name_of(record["step"]), _dump(record))
    everything = records(store)
    lines = [json.dumps(r, sort_keys=True) for r in everything]
    store.replace(ROWS, ("\n".join(lines) + "\n").encode())
    best = best_of(everything, settings.validation)
    if best is not None:
        store.replace(BEST, _dump(best))


def value_of(record: dict[str, Any], metric: str) -> float | None:
    """The value of a metric in a record: ``loss``, or ``BENCHMARK.METRIC``; None where it has none."""
    if metric == LOSS:
        value = record.get(LOSS)
    else:
        benchmark, _, name = metric.partition(".")
        value = record.get("benchmarks", {}).get(benchmark, {}).get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def best_of(everything: Iterable[dict[str, Any]], chosen: Validation) -> dict[str, Any] | None:
    """The best of the records by the chosen metric; of equals the earlier."""
    sign = 1.0 if chosen.mode == "min" else -1.0
    valued = [(value_of(r, chosen.metric), int(r["step"])) for r in everything]
    ranked = sorted((sign * v, step, v) for v, step in valued if v is not None)
    if not ranked:
        return None
    _, step, value = ranked[0]
    return {"step": step, "metric": chosen.metric, "mode": chosen.mode, "value": value}


def best_step(store: Store) -> int | None:
    """The step of the best checkpoint so far; None where none has been scored."""
    return int(json.loads(store.read(BEST))["step"]) if store.exists(BEST) else None


def protected(store: Store, steps: Iterable[int], settings: StageSettings) -> set[int]:
    """Which checkpoints must not be removed yet: those still to be scored, and the best so far."""
    if not wanted(settings):
        return set()
    done = set(_steps(store, FOLDER))
    kept = {s for s in steps if s not in done and is_due(s, settings, -1)}
    best = best_step(store)
    return kept | ({best} & set(steps) if best is not None else set())


def prune(store: Store, settings: StageSettings) -> None:
    """Removes, once training is over, the checkpoints that stayed only until they were scored."""
    steps = committed(store)
    kept = set(steps[-settings.checkpoint.keep :]) | protected(store, steps, settings)
    for step in sorted(set(steps) - kept):
        record = f"checkpoints/step-{step:08d}.json"
        folder = json.loads(store.read(record))["folder"]
        store.delete(record)  # first: without it there is no checkpoint
        store.delete_many(store.list(folder))


def let_go(store: Store, step: int) -> None:
    """Workers that wait after the checkpoint of a step may go on."""
    store.replace(GO, _dump({"step": step}))


def hold(store: Store, step: int, settings: StageSettings, last: int, status: Status) -> None:
    """With ``validation.wait`` a worker goes on only when its checkpoint is scored and it is let go."""
    if not settings.validation.wait or step == last or not is_due(step, settings, last):
        return
    while not store.exists(GO) or int(json.loads(store.read(GO))["step"]) < step:
        status.at("validation", step=step)
        time.sleep(HOLD_S)


def files(store: Store) -> list[str]:
    """What validation has written into a run."""
    return [*store.list(FOLDER), *(n for n in (ROWS, BEST) if store.exists(n))]


def _steps(store: Store, folder: str) -> list[int]:
    found = (_RECORD.match(name) for name in store.list(folder, ".json"))
    return sorted(int(match[2]) for match in found if match and match[1] == folder)


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
