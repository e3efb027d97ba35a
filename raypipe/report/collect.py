"""Reads runs for a report: what an evaluate, a train and a prepare folder hold, nothing computed.

Only files are read here, through the store, so a report can be made of runs on local disk or S3,
long after the cluster that made them is gone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.benchmark import Benchmark
from raypipe.errors import DamageError, RequestError
from raypipe.records import (
    PREDICTION_SCHEMA,
    THUMBS_SCHEMA,
    VERDICT_SCHEMA,
    Outcome,
    Prediction,
    Verdict,
    predictions_of,
    verdicts_of,
)
from raypipe.store import journal
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from raypipe.store.run import MANIFEST, QUARANTINE, Run
from raypipe.store.shards import Shard

METRICS = "metrics"
JUDGED = "judged.arrow"
EXAMPLES_PER_REASON = 3


@dataclass(frozen=True)
class RunHeader:
    """What every run says of itself: settings, manifest and whether it was finished."""

    label: str
    path: str
    kind: str
    settings: dict[str, Any]
    manifest: dict[str, Any]
    identity: str
    raypipe: str
    manifest_sha256: str
    complete: bool


@dataclass(frozen=True)
class EvaluationRun:
    """An evaluate run: its predictions by benchmark and the verdicts on them.

    A benchmark is named as ``asked_name`` names it, so that two question sets of one never meet.
    ``verdicts`` holds by (benchmark, question id) one verdict for each rubric, all by the run's own judge.
    """

    header: RunHeader
    predictions: dict[str, list[Prediction]]
    verdicts: dict[tuple[str, str], list[Verdict]]

    @property
    def label(self) -> str:
        return self.header.label

    def all_verdicts(self) -> Iterator[Verdict]:
        for verdicts in self.verdicts.values():
            yield from verdicts


@dataclass(frozen=True)
class TrainingRun:
    """A train run: one row of measurements per optimizer step, in order of steps."""

    header: RunHeader
    steps: list[dict[str, Any]]
    repeated: int  # lines that a resumed run wrote again
    unreadable: int  # lines that are no JSON object (a torn last line)


@dataclass(frozen=True)
class PrepareRun:
    """A prepare run: what came in, what was stored, what was put aside and why."""

    header: RunHeader
    totals: dict[str, int]
    reasons: dict[str, dict[str, int]]  # reason -> what was put aside (sample, medium) -> how many
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)


def asked_name(name: str, splits: Mapping[str, str]) -> str:
    """A benchmark as a run was asked it: its name, or ``name:split`` if not with its default split.

    Raises:
        RequestError: there is no such benchmark or split.
    """
    if name not in splits or splits[name] == benchmarks.load(name).split:
        return name
    return f"{name}:{benchmarks.load(name, splits[name]).split}"


def benchmark_asked(asked: str) -> Benchmark:
    """The benchmark that ``asked_name`` named."""
    name, _, split = asked.partition(":")
    return benchmarks.load(name, split or None)


def read_evaluation(label: str, path: str) -> EvaluationRun:
    """Reads an evaluate run, finished or not.

    Raises:
        RequestError: not an evaluate run, or its verdicts are by several judges and none is its own.
        DamageError: a ledger cannot be read.
    """
    run = Run.open(path, "evaluate", complete=False)
    header = _header(label, run)
    by_benchmark: dict[str, list[Prediction]] = {}
    seen: set[tuple[str, str]] = set()
    for prediction in predictions_of(Ledger(run.store, "predictions", PREDICTION_SCHEMA).rows()):
        name = (prediction.benchmark, prediction.question_id)
        if name not in seen:
            seen.add(name)
            by_benchmark.setdefault(prediction.benchmark, []).append(prediction)
    chosen = _own_verdicts(_verdicts(run.store), header)
    splits = header.settings.get("splits", {})
    asked = {asked_name(name, splits): by_benchmark[name] for name in sorted(by_benchmark)}
    return EvaluationRun(header, asked, chosen)


def read_training(label: str, path: str) -> TrainingRun:
    """Reads a train run; of several lines for one step (a resumed run repeats steps) the last wins."""
    run = Run.open(path, "train", complete=False)
    rows: dict[int, dict[str, Any]] = {}
    lines = unreadable = 0
    for row in journal.rows(run.store, METRICS):
        if row is None or not isinstance(row.get("step"), int):
            unreadable += 1
            continue
        lines += 1
        rows[row["step"]] = row
    steps = [rows[step] for step in sorted(rows)]
    return TrainingRun(_header(label, run), steps, lines - len(steps), unreadable)


def read_prepare(label: str, path: str) -> PrepareRun:
    """Reads a prepare run's totals and its quarantine, counted by reason."""
    run = Run.open(path, "prepare", complete=False)
    header = _header(label, run)
    reasons: dict[str, Counter[str]] = {}
    examples: dict[str, list[dict[str, str]]] = {}
    for row in filter(None, _json_lines(run.store, QUARANTINE)):
        reason = str(row.get("reason", "unknown"))
        reasons.setdefault(reason, Counter())[str(row.get("what", "input"))] += 1
        shown = examples.setdefault(reason, [])
        if len(shown) < EXAMPLES_PER_REASON:
            shown.append({k: str(row.get(k, "")) for k in ("id", "what", "path", "detail")})
    totals = {k: int(v) for k, v in header.manifest.get("totals", {}).items() if isinstance(v, int)}
    ordered = sorted(reasons, key=lambda r: (-reasons[r].total(), r))
    return PrepareRun(header, totals, {r: dict(sorted(reasons[r].items())) for r in ordered}, examples)


def read_thumbs(path: str, media: Collection[str]) -> dict[str, list[tuple[float, bytes]]]:
    """The frames the model saw of some media, as (presentation time in seconds, encoded image).

    Only the rows asked for are kept, so a run with many media costs no more than the samples shown.
    """
    store = Store(path)
    wanted = set(media)
    found: dict[str, list[tuple[float, bytes]]] = {}
    for name in store.list("thumbs", ".arrow"):
        table = Shard(store, name, THUMBS_SCHEMA).table()
        for position, medium in enumerate(table.column("medium").to_pylist()):
            if medium in wanted and medium not in found:
                row = table.slice(position, 1).to_pylist()[0]
                times = [*row["pts_s"], *[math.nan] * len(row["frames"])]
                found[medium] = list(zip(times, row["frames"], strict=False))
    return found


def judge_of(run: EvaluationRun, benchmark: str | None = None) -> dict[str, Any]:
    """The judge as it names itself: its name, and the models its endpoint reported.

    Args:
        run: the evaluation that was judged.
        benchmark: only the verdicts on this one; None for all.

    Returns:
        ``name`` is empty when nothing was judged and the settings name no judge.
    """
    verdicts = [v for v in run.all_verdicts() if benchmark in (None, v.benchmark)]
    names = sorted({v.judge for v in verdicts}) or [(run.header.settings.get("judge") or {}).get("name", "")]
    models = sorted({v.judge_model for v in verdicts if v.judge_model})
    return {"name": ", ".join(names), "models": models}


def _header(label: str, run: Run) -> RunHeader:
    whole = run.settings
    complete = run.complete
    if complete and not run.store.exists(MANIFEST):
        raise DamageError(f"{run.store.root} is committed but has no manifest", "raypipe verify RUN")
    return RunHeader(
        label=label,
        path=run.store.root,
        kind=str(whole.get("kind")),
        settings=whole.get("settings", {}),
        manifest=run.manifest if run.store.exists(MANIFEST) else {},
        identity=str(whole.get("identity", "")),
        raypipe=str(whole.get("raypipe", "")),
        manifest_sha256=str(run.commit_record.get("manifest_sha256", "")) if complete else "",
        complete=complete,
    )


def _verdicts(store: Store) -> list[Verdict]:
    """The verdicts on these very answers; of a run that an older raypipe judged all that it has."""
    if store.exists(JUDGED):
        return verdicts_of(Shard(store, JUDGED, VERDICT_SCHEMA).table().to_pylist())
    return verdicts_of(Ledger(store, "verdicts", VERDICT_SCHEMA).rows())


def _own_verdicts(verdicts: list[Verdict], header: RunHeader) -> dict[tuple[str, str], list[Verdict]]:
    """One verdict per question and rubric, by the run's own judge: a score never mixes judges.

    Of several verdicts on the same the last readable one counts, else the last.
    """
    names = {v.judge for v in verdicts}
    own = (header.settings.get("judge") or {}).get("name")
    if len(names) > 1:
        if own not in names:
            raise RequestError(
                f"{header.path} holds verdicts by {len(names)} judges: {', '.join(sorted(names))}",
                "judge it again with one judge, or report one run a judge",
            )
        verdicts = [v for v in verdicts if v.judge == own]
    chosen: dict[tuple[str, str, str], Verdict] = {}
    for verdict in verdicts:
        key = (verdict.benchmark, verdict.question_id, verdict.rubric.partition("@")[0])
        before = chosen.get(key)
        if before is None or verdict.outcome == Outcome.OK or before.outcome != Outcome.OK:
            chosen[key] = verdict
    found: dict[tuple[str, str], list[Verdict]] = {}
    for (benchmark, question_id, _), verdict in chosen.items():
        found.setdefault((benchmark, question_id), []).append(verdict)
    return found


def _json_lines(store: Store, name: str) -> Iterator[dict[str, Any] | None]:
    """The objects of a JSON-lines file; None for a line that is not one. No file, no lines."""
    if store.exists(name):
        yield from journal.parsed(store.read(name))
