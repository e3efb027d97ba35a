"""What verify checks of an evaluation beyond its answers: the verdicts on them, and their scores.

Verdicts and scores may be made anew after the answers are committed, by the same judge or another. So no
manifest names them but a record of their own, written after all of them: ``scores.commit.json``. It is
taken back before any of them is replaced; a run that was stopped in between has scores that are not proved
until the same command has been run again, as has one that an older version made.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from raypipe.errors import DamageError
from raypipe.records import PREDICTION_SCHEMA, VERDICT_SCHEMA
from raypipe.store.files import Store
from raypipe.store.ledger import read_table
from raypipe.store.run import Run
from raypipe.store.shards import sha256

SCORES, VIEW, VERDICTS, PREDICTIONS = "scores.json", "judged.arrow", "verdicts", "predictions"
RECORD = "scores.commit.json"
PART = f"{VERDICTS}/part-"  # segments that are put together later, and then are gone
DECISION = ("key", "outcome", "correct", "score", "reply")

Say = Callable[[str], None]


def unseal(store: Store) -> None:
    """Takes the record back, before anything that it vouches for is changed."""
    store.delete(RECORD)


def seal_scores(run: Run, scores: bytes) -> None:
    """Writes the scores of a finished evaluation, and then the record of them and of all verdicts."""
    store = run.store
    unseal(store)
    store.replace(SCORES, scores)
    files = [{"path": SCORES, "bytes": len(scores), "sha256": sha256(scores)}]
    for name in [*([VIEW] if store.exists(VIEW) else []), *store.list(VERDICTS, ".arrow")]:
        with contextlib.suppress(FileNotFoundError) if name.startswith(PART) else contextlib.nullcontext():
            size, digest = store.measure(name)
            files.append({"path": name, "bytes": size, "sha256": digest})
    body = {"manifest_sha256": run.commit_record["manifest_sha256"], "files": files}
    store.replace(RECORD, _dump({**body, "sha256": sha256(_dump(body))}))


def check_scores(run: Run, say: Say) -> tuple[int, str]:
    """Compares scores and verdicts with their record, and the verdicts that count with all others.

    Args:
        say: is told every fault.

    Returns:
        How many files were read, and why the scores are not proved; "" where they are, or are damaged.
    """
    store = run.store
    segments = store.list(VERDICTS, ".arrow")
    _check_verdicts(run, segments, say)
    if not store.exists(RECORD):
        why = f"not vouched for by {RECORD}" if store.exists(SCORES) else "not written yet"
        return len(segments), why
    record = _record(store)
    if record is None:
        say(f"{RECORD}: not as it was written")
        return len(segments), ""
    named = {entry["path"]: entry for entry in record["files"]}
    for name, entry in named.items():
        try:
            if store.measure(name) != (entry["bytes"], entry["sha256"]):
                say(f"{name}: content differs from its hash")
        except FileNotFoundError:
            if not name.startswith(PART):
                say(f"{name}: missing")
    if VIEW not in named and store.exists(VIEW):
        say(f"{VIEW}: not named in {RECORD}")
    stale = record["manifest_sha256"] != run.commit_record["manifest_sha256"]
    return len({*named, *segments}), "made before the answers were committed anew" if stale else ""


def _check_verdicts(run: Run, segments: list[str], say: Say) -> None:
    """All are whole; those that count are among them, and on questions of the run.

    Segments may come after the record, where a judge was stopped, and hold verdicts on older answers.
    """
    said: set[int] = set()
    damaged = False
    for name in segments:
        try:
            said |= set(_decisions(read_table(run.store, name, VERDICT_SCHEMA)))
        except DamageError as fault:
            damaged = True
            say(f"{name}: {fault.message}")
    if not run.store.exists(VIEW):
        return
    try:
        view = read_table(run.store, VIEW, VERDICT_SCHEMA)
    except DamageError as fault:
        say(f"{VIEW}: {fault.message}")
        return
    lost = sum(found not in said for found in _decisions(view))
    if lost and not damaged:
        say(f"{VIEW}: {lost} of {view.num_rows} verdicts are not in {VERDICTS}/")
    strange = set(view.column("question_id").to_pylist()) - _questions(run) if view.num_rows else set()
    if strange:
        say(f"{VIEW}: {len(strange)} questions that the run does not have, such as {min(strange)}")


def _decisions(table: pa.Table) -> Iterator[int]:
    """What each verdict decides about which content, as a number."""
    for batch in table.select(DECISION).to_batches(max_chunksize=4096):
        yield from map(hash, zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _questions(run: Run) -> set[str]:
    found: set[str] = set()
    for name in run.store.list(PREDICTIONS, ".arrow"):
        with contextlib.suppress(DamageError):  # which is said where the answers are checked
            found |= set(read_table(run.store, name, PREDICTION_SCHEMA).column("question_id").to_pylist())
    return found


def _record(store: Store) -> dict[str, Any] | None:
    """The record; None where it is not what was written."""
    data = store.read(RECORD)
    try:
        body = json.loads(data)
        rest = {k: v for k, v in body.items() if k != "sha256"}
        whole = data == _dump(body) and sha256(_dump(rest)) == body["sha256"]
    except (ValueError, KeyError, AttributeError):
        return None
    return body if whole else None


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
