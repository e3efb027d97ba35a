"""What is held of a plan, and the manifest that vouches for all of it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import PurePosixPath

from raypipe.evaluate.certificate import Certificate
from raypipe.evaluate.plan import Plan
from raypipe.evaluate.read import PREPARED, THUMBS
from raypipe.evaluate.scores import ANSWERED
from raypipe.evaluate.work import CERTIFICATES, PREDICTIONS, SPLITS
from raypipe.records import (
    PREDICTION_SCHEMA,
    THUMBS_SCHEMA,
    VERDICT_SCHEMA,
    Outcome,
    Prediction,
    Reason,
    Rejection,
    predictions_of,
    to_table,
)
from raypipe.store.ledger import Ledger
from raypipe.store.run import Manifest, Run
from raypipe.store.shards import Shard, encode, metadata_of
from raypipe.store.verify_evaluate import SCORES, VERDICTS, VIEW, unseal


def ledger_of(run: Run) -> Ledger:
    return Ledger(run.store, PREDICTIONS, PREDICTION_SCHEMA)


def asked_again(run: Run, retry_bad: bool) -> set[Outcome]:
    """The outcomes that a start of a run does not leave as they are."""
    failed = {Outcome.FAILED} if run.complete else set()
    return failed | ({Outcome.MEDIUM_BAD} if retry_bad else set())


def committed_units(run: Run, wanted: Collection[str], *, retry_bad: bool = False) -> set[str]:
    """Those of some units that the run would not carry out again; nothing is changed.

    Args:
        retry_bad: units with a medium that could not be shown are carried out again.
    """
    ledger = ledger_of(run)
    held = ledger.names() & set(wanted)
    if again := asked_again(run, retry_bad):
        held -= {n for n in held if any(r["outcome"] in again for r in ledger.segment(n))}
    return held


def held_units(run: Run, plan: Plan) -> set[str]:
    """The units of a plan that are committed; what is of another plan (an older checkpoint) is removed.

    A finished run that is started again asks the questions again that its model could not be asked: what
    refused then may not refuse now. One that was stopped goes on, and takes up nothing that it committed, but
    for media that could not be shown where ``retry_bad`` was set.
    """
    wanted, there = {u.id for u in plan.units}, ledger_of(run).names()
    held = committed_units(run, wanted, retry_bad=plan.retry_bad)
    if held != there or held != wanted:
        run.reopen()
        unseal(run.store)
        run.store.delete(SCORES)
        if run.store.list(VERDICTS):  # which are kept for what is the same in the new answers
            run.store.replace(VIEW, encode(to_table([], VERDICT_SCHEMA)))
        _remove(run, PREDICTIONS, held)
        _remove(run, THUMBS, held)
        _remove(run, CERTIFICATES, held)
        _remove(run, SPLITS, wanted)
    return held


def commit(run: Run, plan: Plan, predictions: list[Prediction]) -> None:
    """Writes the manifest of a run whose units are all committed."""
    unanswered = [p for p in predictions if p.outcome not in ANSWERED]
    files = [run.entry(f"{PREDICTIONS}/{u.id}.arrow", u.count) for u in plan.units]
    taken = 0
    for name in run.store.list(THUMBS, ".arrow"):
        thumbs = Shard(run.store, name, THUMBS_SCHEMA).table()
        files.append(run.entry(name, thumbs.num_rows))
        taken += int(metadata_of(thumbs).get(PREPARED, 0))
    files += [run.entry(n, 1) for n in run.store.list(CERTIFICATES, ".json")]
    found = certificate_of(run)
    manifest = Manifest(
        kind="evaluate",
        files=files,
        totals={
            "inputs": len(predictions),
            "ok": len(predictions) - len(unanswered),
            "quarantined": len(unanswered),
            "media": len({(u.benchmark, g.medium.path) for u in plan.units for g in u.groups if g.medium}),
            **({"media_prepared": taken} if run.settings["settings"].get("prepared") else {}),
        },
        facts={
            "missing_benchmarks": dict(plan.missing),
            "weights": plan.weights,
            **({"certificate": found.row()} if found else {}),
        },
    )
    run.commit(manifest, [_rejection(p) for p in unanswered])


def certificate_of(run: Run) -> Certificate | None:
    """What asking a sample again, one at a time, found; None where nothing was asked again."""
    names = run.store.list(CERTIFICATES, ".json")
    parts = [Certificate.of(json.loads(run.store.read(name))) for name in names]
    return Certificate.together(parts) if parts else None


def media_of(run: Run) -> dict[str, dict[str, int]]:
    """How many of the media were taken from prepare runs, for a summary; nothing where none were named."""
    totals = run.manifest["totals"]
    taken = totals.get("media_prepared")
    return {} if taken is None else {"media": {"all": totals["media"], "prepared": taken}}


def predictions_in(run: Run) -> list[Prediction]:
    """All predictions of a run, in the order of its units' names."""
    return predictions_of(ledger_of(run).rows())


def _remove(run: Run, folder: str, kept: set[str]) -> None:
    """Removes what belongs to other units than those."""
    names = run.store.list(folder)
    run.store.delete_many(n for n in names if PurePosixPath(n).parts[1].partition(".")[0] not in kept)


def _rejection(prediction: Prediction) -> Rejection:
    reason, _, detail = prediction.detail.partition(": ")
    known = reason if reason in set(Reason) else Reason.MEDIA_UNREADABLE
    named = Reason(known) if prediction.outcome is Outcome.MEDIUM_BAD else Reason.GENERATION_FAILED
    return Rejection(
        prediction.question_id, "question", named, detail or prediction.detail, prediction.medium
    )
