"""How far a run is: from the names in its folder and the newest rows of what it writes, never from all."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from raypipe.errors import RaypipeError
from raypipe.settings import StageSettings, TuneSettings, build
from raypipe.store.files import Store
from raypipe.store.journal import newest
from raypipe.store.run import Run
from raypipe.store.starts import FAILED, Start
from raypipe.store.verify_evaluate import SCORES, VERDICTS

Progress = dict[str, Any]


def progress_of(run: Run, names: Sequence[str], starts: Sequence[Start]) -> Progress:
    """Counts by what is counted: a pair is done and all, a single number is only counted."""
    last = next((start for start in reversed(starts) if start.part("progress")), None)
    told = last.part("progress").get("counts") if last else {}
    told = {k: v for k, v in told.items() if _is_count(k, v)} if isinstance(told, dict) else {}
    if last is not None and last.state() == FAILED:
        told.pop("verdicts", None)  # they were asked for, and what came is not known here
    look: dict[str, Callable[[Run, Sequence[str], Progress], Progress]] = {
        "prepare": _prepare,
        "train": _train,
        "evaluate": _evaluate,
        "tune": _tune,
    }
    return look[run.kind](run, names, told) if run.kind in look else dict(told)


def _is_count(name: str, value: object) -> bool:
    """Whether it is what a step says: a number, done and all, or a loss, which may be none."""
    if not name.isidentifier():
        return False
    if isinstance(value, list):
        return len(value) == 2 and _is_number(value[0]) and (value[1] is None or _is_number(value[1]))
    return _is_number(value) or (name == "loss" and value is None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _prepare(run: Run, names: Sequence[str], told: Progress) -> Progress:
    done = {n.removeprefix("units/").removesuffix(".json") for n in names if n.startswith("units/")}
    plans = [n for n in names if n.startswith("plan/") and n.endswith(".arrow")]
    # A plan of older inputs may lie beside the one that is carried out; which is which, its reader knows.
    planned = _batches(run.store, plans[0]) if len(plans) == 1 else None
    units: Any = [min(len(done), planned), planned] if planned is not None else len(done)
    if run.complete:
        totals = run.manifest["totals"]
        return {"units": units} | {k: totals[k] for k in ("inputs", "ok", "quarantined") if k in totals}
    return {"units": units, **told}


def _train(run: Run, names: Sequence[str], told: Progress) -> Progress:
    if run.complete:
        body = run.manifest
        steps = body["totals"]["steps"]
        return {"steps": [steps, steps], "loss": body["facts"].get("last_loss")}
    row = newest(run.store, "metrics")
    return {"steps": [row["step"], row.get("steps")], "loss": row.get("loss")} if row else dict(told)


def _evaluate(run: Run, names: Sequence[str], told: Progress) -> Progress:
    units = sum(n.startswith("predictions/") and n.endswith(".arrow") for n in names)
    asked = {k: v for k, v in told.items() if k == "questions"}
    found: Progress = {**asked, "units": units, **{k: v for k, v in told.items() if k != "media"}}
    if run.complete:
        totals = run.manifest["totals"]
        found = {"questions": [], **found} | {"questions": [totals["inputs"], totals["inputs"]]}
        found["quarantined"] = totals.get("quarantined", 0)
    if SCORES in names:
        coverage = _json(run.store, SCORES).get("coverage", {}).values()
        waiting = sum(c.get("answered", 0) for c in coverage if c.get("waits_for_judge"))
        found |= {"answers_for_a_judge": waiting} if waiting else {}
        found["answered"] = sum(c.get("answered", 0) for c in coverage)
        found["counted"] = sum(c.get("counted", 0) for c in coverage)
        found.pop("failed", None)
    segments = sum(n.startswith(f"{VERDICTS}/") for n in names)
    if segments and not run.complete and "verdicts" not in found:
        found["verdict_segments"] = segments
    return found


def _tune(run: Run, names: Sequence[str], told: Progress) -> Progress:
    ended: dict[str, set[str]] = {"commit.json": set(), "stopped.json": set(), "failed.json": set()}
    for parts in (n.split("/") for n in names if n.startswith("trials/")):
        if len(parts) == 3 and parts[2] in ended:
            ended[parts[2]].add(parts[1])
    done, early, failed = ended.values()
    return {
        "trials": [len(done | early), _trials(run)],
        "stopped_early": len(early - done),
        "failed": len(failed - done - early),
    }


def _trials(run: Run) -> int | None:
    from raypipe.train.space import trials_of

    try:
        settings = build(TuneSettings, run.settings["settings"], "settings.json")
        return len(trials_of(settings, settings.stage)) if isinstance(settings.stage, StageSettings) else None
    except (RaypipeError, KeyError):
        return None


def _batches(store: Store, name: str) -> int | None:
    """The record batches of an Arrow file, from its footer alone."""
    try:
        with pa.ipc.open_file(pa.PythonFile(_Ranged(store, name), mode="r")) as reader:
            return int(reader.num_record_batches)
    except (pa.ArrowInvalid, FileNotFoundError, ValueError):
        return None


class _Ranged(io.RawIOBase):
    """A file of a store, read by ranges."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._at, self._size = 0, store.size(name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        data = self._store.range(self._name, self._at, self._size - self._at if size < 0 else size)
        self._at += len(data)
        return data


def _json(store: Store, name: str) -> dict[str, Any]:
    try:
        value = json.loads(store.read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
