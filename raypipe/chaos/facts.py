"""What a finished run says of itself, read from its folder: what two runs are compared by."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from raypipe.chaos.case import Case
from raypipe.errors import DamageError, RaypipeError
from raypipe.records import PREDICTION_SCHEMA, SAMPLE_SCHEMA, VERDICT_SCHEMA
from raypipe.settings import DatasetSettings, EvaluateSettings
from raypipe.store.files import Store
from raypipe.store.journal import rows
from raypipe.store.run import COMMIT, MANIFEST, QUARANTINE, SETTINGS, Run
from raypipe.store.shards import Shard
from raypipe.store.verify import verify
from raypipe.store.verify_evaluate import SCORES, VIEW
from raypipe.store.verify_train import LEDGER, LEDGER_SCHEMA

# What raypipe promises to be the same, byte for byte, however often a run was started.
PROMISED = {"prepare": ("",), "train": ("model/",), "evaluate": ("predictions/",)}
_RECORDS = {"prepare": (SETTINGS, MANIFEST, QUARANTINE, COMMIT), "evaluate": (QUARANTINE,)}
_VERDICT = ("question_id", "rubric", "outcome", "correct", "score", "baseline", "choice", "judge_model")


@dataclass(frozen=True)
class Facts:
    """One finished run.

    Attributes:
        code: the exit code of its last start.
        ids: the inputs that it holds, ready or in quarantine, sorted; one that is there twice is here twice.
        files: sha256 of the files that are promised to be the same, by name.
        verdicts: one line of values a verdict, sorted.
        scores: what scores.json says.
        losses: of each step, from the first on.
        samples: (epoch, place, id) of all that training saw, in this order.
        damage: what verify says.
    """

    code: int
    ids: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    verdicts: tuple[str, ...] = ()
    scores: Any = None
    losses: tuple[float | None, ...] = ()
    samples: tuple[tuple[int, int, str], ...] = ()
    damage: tuple[str, ...] = ()


def facts_of(case: Case, code: int) -> Facts:
    """Reads the run that lies in the case's folder.

    Raises:
        DamageError: it cannot be read at all.
    """
    run = Run.open(str(case.out), case.verb)
    store, manifest = run.store, run.manifest
    promised = PROMISED[case.verb]
    files = {e["path"]: store.sha256(e["path"]) for e in manifest["files"] if e["path"].startswith(promised)}
    files |= {name: store.sha256(name) for name in _RECORDS.get(case.verb, ()) if store.exists(name)}
    damage = tuple(_verified(str(case.out)))
    if case.verb == "prepare":
        held = _column(store, manifest, "samples/", SAMPLE_SCHEMA, "id")
        quarantined = [r["id"] for r in run.quarantine() if r["what"] == "sample"]
        return Facts(code, tuple(sorted([*held, *quarantined])), files, damage=damage)
    if case.verb == "evaluate":
        ids = _column(store, manifest, "predictions/", PREDICTION_SCHEMA, "question_id")
        scores = json.loads(store.read(SCORES))
        return Facts(code, tuple(sorted(ids)), files, _verdicts(store), scores, damage=damage)
    losses = tuple(row.get("loss") if row else None for row in rows(store, "metrics"))
    return Facts(code, (), files, losses=losses, samples=_samples(store, manifest), damage=damage)


def expected_ids(case: Case) -> list[str] | None:
    """The ids of all inputs, read from the annotations themselves; None for a stage, which has its ledger."""
    if isinstance(case.settings, DatasetSettings):
        from raypipe.prepare.read import Annotations

        return sorted(record.id for record in Annotations(case.settings))
    if isinstance(case.settings, EvaluateSettings):
        return sorted(_questions(case.settings))
    return None


def _questions(settings: EvaluateSettings) -> Iterable[str]:
    from raypipe import benchmark as benchmarks
    from raypipe.eval_mirror import eval_tree

    names = benchmarks.names() if settings.benchmarks == "all" else settings.benchmarks
    for name in names:
        chosen = benchmarks.load(name, settings.splits.get(name))
        with eval_tree(settings.eval_root, [chosen.folder]) as tree:
            if chosen.missing_data(tree) is None:
                yield from (q.id for q in chosen.questions(tree)[: settings.limit])


def _column(store: Store, manifest: dict[str, Any], folder: str, schema: Any, name: str) -> list[str]:
    found: list[str] = []
    for entry in manifest["files"]:
        if entry["path"].startswith(folder):
            found += Shard(store, entry["path"], schema).table().column(name).to_pylist()
    return found


def _verdicts(store: Store) -> tuple[str, ...]:
    if not store.exists(VIEW):
        return ()
    said = Shard(store, VIEW, VERDICT_SCHEMA).table().to_pylist()
    return tuple(sorted(json.dumps({name: row[name] for name in _VERDICT}, default=str) for row in said))


def _samples(store: Store, manifest: dict[str, Any]) -> tuple[tuple[int, int, str], ...]:
    found: list[tuple[int, int, str]] = []
    for entry in manifest["files"]:
        if entry["path"].startswith(f"{LEDGER}/"):
            table = Shard(store, entry["path"], LEDGER_SCHEMA).table()
            columns = [table.column(name).to_pylist() for name in ("epoch", "slot", "id")]
            found += list(zip(*columns, strict=True))
    return tuple(sorted(found))


def _verified(root: str) -> list[str]:
    try:
        return verify(root).damage
    except DamageError as fault:
        return [fault.message]
    except RaypipeError as fault:
        return [f"verify itself failed: {fault.message}"]
