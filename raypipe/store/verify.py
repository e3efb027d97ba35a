"""Proves a run: every file is whole, every hash right, every input in exactly one place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raypipe.errors import DamageError, RequestError
from raypipe.records import INDEX_SCHEMA, MEDIA_SCHEMA, PREDICTION_SCHEMA, SAMPLE_SCHEMA, THUMBS_SCHEMA
from raypipe.settings import DatasetSettings, EvaluateSettings, Settings, StageSettings, build, identity
from raypipe.store.run import COMMIT, MANIFEST, QUARANTINE, SETTINGS, Run
from raypipe.store.shards import Shard, sha256

SCHEMAS = {
    "media": MEDIA_SCHEMA,
    "samples": SAMPLE_SCHEMA,
    "index.arrow": INDEX_SCHEMA,
    "predictions": PREDICTION_SCHEMA,
    "thumbs": THUMBS_SCHEMA,
}
DATA_FOLDERS = ("media", "samples", "units", "predictions", "thumbs", "model")  # all in them is listed
DATA_FILES = ("index.arrow", "metrics.jsonl")
SETTINGS_OF: dict[str, type[Settings]] = {
    "prepare": DatasetSettings,
    "train": StageSettings,
    "evaluate": EvaluateSettings,
}


@dataclass
class Proof:
    """What was checked and what was found wrong (nothing: the run is proved)."""

    run: str
    files: int = 0
    rows: int = 0
    inputs: int = 0
    damage: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return {**vars(self), "ok": not self.damage}


def verify(root: str) -> Proof:
    """Reads everything a run's manifest names and compares.

    Raises:
        RequestError: not a run folder, or one that is not finished.
    """
    run = Run.open(root)
    proof = Proof(run.store.root)
    try:
        record = run.commit_record
        _check_settings(run, proof)
    except DamageError as fault:
        proof.damage.append(fault.message)
        return proof
    for name, key in ((MANIFEST, "manifest_sha256"), (QUARANTINE, "quarantine_sha256")):
        data = run.store.read(name) if run.store.exists(name) else None
        if data is None or sha256(data) != record.get(key):
            proof.damage.append(f"{name}: not what {COMMIT} recorded")
    if proof.damage:
        return proof
    manifest = run.manifest
    keys: set[str] = set()
    for entry in manifest["files"]:
        _check_file(run, entry, proof, keys)
    _check_listing(run, manifest, proof)
    _check_counts(run, manifest, proof, keys)
    return proof


def _check_settings(run: Run, proof: Proof) -> None:
    """What the run was asked to make is what its settings say; how it was carried out may change."""
    body = run.settings
    kind = SETTINGS_OF.get(str(body.get("kind")))
    try:
        same = kind is not None and identity(build(kind, body["settings"], SETTINGS)) == body["identity"]
    except (RequestError, KeyError):
        same = False
    if not same:
        proof.damage.append(f"{SETTINGS}: not the settings this run was started with")


def raise_on_damage(proof: Proof) -> None:
    if proof.damage:
        shown = "\n".join(f"  {line}" for line in proof.damage[:4])
        more = len(proof.damage) - 4
        raise DamageError(
            f"{len(proof.damage)} fault(s) in {proof.run}\n{shown}"
            + (f"\n  and {more} more" if more > 0 else ""),
            "remove the damaged files and commit.json, then run the same command again",
        )


def _check_file(run: Run, entry: dict[str, Any], proof: Proof, keys: set[str]) -> None:
    name = entry["path"]
    proof.files += 1
    if not run.store.exists(name):
        proof.damage.append(f"{name}: missing")
        return
    data = run.store.read(name)
    if len(data) != entry["bytes"] or sha256(data) != entry["sha256"]:
        proof.damage.append(f"{name}: content differs from its hash")
        return
    schema = SCHEMAS.get(name.split("/")[0])
    if schema is None:
        return
    try:
        table = Shard(run.store, name, schema).table()
    except DamageError as fault:
        proof.damage.append(f"{name}: {fault.message}")
        return
    proof.rows += table.num_rows
    if table.num_rows != entry["rows"]:
        proof.damage.append(f"{name}: {table.num_rows} rows, the manifest says {entry['rows']}")
    _check_keys(name, table, proof, keys)


def _check_keys(name: str, table: pa.Table, proof: Proof, keys: set[str]) -> None:
    column = {"media": "key", "samples": "id", "predictions": "key"}.get(name.split("/")[0])
    if column is None:
        return
    for value in table.column(column).to_pylist():
        tagged = f"{column}:{value}"
        if tagged in keys:
            proof.damage.append(f"{name}: {value} is stored twice")
        keys.add(tagged)


def _check_listing(run: Run, manifest: dict[str, Any], proof: Proof) -> None:
    named = {e["path"] for e in manifest["files"]}
    for folder in DATA_FOLDERS:
        for name in run.store.list(folder):
            if name not in named:
                proof.damage.append(f"{name}: not named in the manifest")
    for name in DATA_FILES:
        if name not in named and run.store.exists(name):
            proof.damage.append(f"{name}: not named in the manifest")


def _check_counts(run: Run, manifest: dict[str, Any], proof: Proof, keys: set[str]) -> None:
    totals = manifest["totals"]
    proof.inputs = totals.get("inputs", 0)
    if "quarantined" not in totals:
        return
    if totals["inputs"] != totals["ok"] + totals["quarantined"]:
        proof.damage.append(f"totals: {json.dumps(totals, sort_keys=True)} do not add up")
    stored_rows = {"prepare": ("samples", totals["ok"]), "evaluate": ("predictions", totals["inputs"])}
    folder, counted = stored_rows.get(manifest["kind"], ("", 0))
    rows = sum(e["rows"] for e in manifest["files"] if e["path"].startswith(f"{folder}/"))
    if folder and rows != counted:
        proof.damage.append(f"{folder}: {rows} rows are stored, the totals say {counted}")
    quarantined = [r for r in run.quarantine() if r["what"] in ("sample", "question")]
    if len(quarantined) != totals["quarantined"]:
        proof.damage.append(
            f"quarantine holds {len(quarantined)} inputs, the manifest {totals['quarantined']}"
        )
    stored = {k.partition(":")[2] for k in keys}
    both = [r["id"] for r in quarantined if r["id"] in stored]
    proof.damage += [f"{i}: both stored and in quarantine" for i in both[:4]]
