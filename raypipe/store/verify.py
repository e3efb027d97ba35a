"""Proves a run: every file is whole, every hash right, every input in exactly one place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raypipe.errors import DamageError, RequestError
from raypipe.records import INDEX_SCHEMA, MEDIA_SCHEMA, PREDICTION_SCHEMA, SAMPLE_SCHEMA, THUMBS_SCHEMA
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    Settings,
    StageSettings,
    TuneSettings,
    build,
    identity,
)
from raypipe.store.ledger import shard_of
from raypipe.store.run import COMMIT, MANIFEST, QUARANTINE, SETTINGS, Run
from raypipe.store.shards import Shard, sha256
from raypipe.store.verify_evaluate import check_scores
from raypipe.store.verify_prepare import INDEX, Places, check_media_totals, check_unit, source_hashes
from raypipe.store.verify_train import LEDGER, LEDGER_SCHEMA, check_ledger

SCHEMAS = {
    "media": MEDIA_SCHEMA,
    "samples": SAMPLE_SCHEMA,
    "index.arrow": INDEX_SCHEMA,
    "predictions": PREDICTION_SCHEMA,
    "thumbs": THUMBS_SCHEMA,
    LEDGER: LEDGER_SCHEMA,
}
DATA_FOLDERS = (
    "media",
    "samples",
    "units",
    "plan",
    "predictions",
    "thumbs",
    "certificate",
    "model",
    "validation",
)  # all in them is listed
DATA_FILES = (
    "index.arrow",
    "metrics.jsonl",
    "validation.jsonl",
    "best.json",
    "trials.jsonl",
    "search.json",
    "search.svg",
)
SETTINGS_OF: dict[str, type[Settings]] = {
    "prepare": DatasetSettings,
    "train": StageSettings,
    "evaluate": EvaluateSettings,
    "tune": TuneSettings,
}


@dataclass
class Proof:
    """What was checked and what was found wrong (nothing: the run is proved).

    ``unproved`` says why the scores of an evaluation can be neither proved nor called damaged.
    """

    run: str
    files: int = 0
    rows: int = 0
    inputs: int = 0
    unproved: str = ""
    damage: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return {**vars(self), "ok": not self.damage}


def verify(root: str) -> Proof:
    """Reads everything a run's manifest names and compares.

    A file is hashed before it is parsed: what passed its hash is what raypipe wrote, and nothing
    else ever reaches the Arrow reader unchecked.

    Raises:
        RequestError: not a run folder, or one that is not finished.
        ServiceError: the store does not answer.
    """
    run = Run.open(root)
    proof = Proof(run.store.root)
    try:
        record = run.commit_record
        _check_settings(run, proof)
        if not run.commit_is_whole():
            proof.damage.append(f"{COMMIT}: not as it was written")
        for name, key in ((MANIFEST, "manifest_sha256"), (QUARANTINE, "quarantine_sha256")):
            data = run.store.read(name) if run.store.exists(name) else None
            if data is None or sha256(data) != record.get(key):
                proof.damage.append(f"{name}: not what {COMMIT} recorded")
        if not proof.damage:
            _Check(run, proof).all()
    except DamageError as fault:
        proof.damage.append(fault.message)
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        # Only a manifest or quarantine of another shape, vouched for by its commit record, comes to this.
        proof.damage.append(f"{MANIFEST} or {QUARANTINE}: not of raypipe's shape ({type(fault).__name__})")
    return proof


def _check_settings(run: Run, proof: Proof) -> None:
    """What the run was asked to make is what its settings say; how it was carried out may change."""
    body = run.settings
    kind = SETTINGS_OF.get(str(body.get("kind")))
    try:
        same = kind is not None and identity(build(kind, body["settings"], SETTINGS)) == body["identity"]
        same = same and run.settings_are_whole()
    except (RequestError, KeyError, TypeError, AttributeError):
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


class _Check:
    """One pass over the files of a run that its commit record vouches for."""

    def __init__(self, run: Run, proof: Proof) -> None:
        self.run, self.proof, self.say = run, proof, proof.damage.append
        self.manifest = run.manifest
        self.files = {e["path"]: e for e in self.manifest["files"]}
        self.keys: set[str] = set()
        self.keys_of: dict[str, list[str]] = {}
        self.places: Places | None = None

    def all(self) -> None:
        prepared = self.manifest["kind"] == "prepare"
        if not isinstance(self.manifest["inputs"], dict):
            raise TypeError("inputs")
        # The index first: it says where in the shards to look. The units last: they name the shards.
        order = {INDEX: 0, "units": 2}
        for entry in sorted(self.manifest["files"], key=lambda e: order.get(e["path"].split("/")[0], 1)):
            self._file(entry)
        _check_listing(self.run, self.manifest, self.proof)
        _check_counts(self.run, self.manifest, self.proof, self.keys)
        if self.manifest["kind"] == "train" and not self.proof.damage:
            check_ledger(self.run.store, self.manifest, self.say)
        if self.manifest["kind"] == "evaluate":
            files, self.proof.unproved = check_scores(self.run, self.say)
            self.proof.files += files
        if prepared and self.places:
            self.places.check_rest()
            check_media_totals(self.manifest["totals"], self.places, self.run.quarantine(), self.say)
        elif prepared and INDEX not in self.files:
            self.say(f"{INDEX}: missing in the manifest")

    def _file(self, entry: dict[str, Any]) -> None:
        name, store = entry["path"], self.run.store
        self.proof.files += 1
        top = name.split("/")[0]
        schema = SCHEMAS.get(top)
        # Whole only where it is parsed and cannot be mapped; anything else may be larger than memory.
        whole = top == "units" or (schema is not None and not store.is_local)
        try:
            data = store.read(name) if whole else None
            size, digest = store.measure(name) if data is None else (len(data), sha256(data))
        except FileNotFoundError:
            self.say(f"{name}: missing")
            return
        except ValueError:
            self.say(f"{name}: no name inside the run")
            return
        if (size, digest) != (entry["bytes"], entry["sha256"]):
            self.say(f"{name}: content differs from its hash")
        elif schema is not None:
            try:
                self._rows(entry, shard_of(store, name, schema, data))
            except DamageError as fault:
                self.say(f"{name}: {fault.message}")
        elif top == "units" and data is not None and self.manifest["kind"] == "prepare":
            check_unit(name, data, self.files, self.keys_of, self.say)

    def _rows(self, entry: dict[str, Any], shard: Shard) -> None:
        name = entry["path"]
        table = shard.table()
        self.proof.rows += table.num_rows
        if table.num_rows != entry["rows"]:
            self.say(f"{name}: {table.num_rows} rows, the manifest says {entry['rows']}")
        self._row_keys(name, table)
        if self.manifest["kind"] != "prepare":
            return
        if name == INDEX:
            self.places = Places(table, source_hashes(self.run.store, self.files), self.say)
        elif self.places:
            self.places.check(name, shard)
            if name.startswith("samples/"):
                self.places.check_samples(name, table)

    def _row_keys(self, name: str, table: pa.Table) -> None:
        top = name.split("/")[0]
        column = {"media": "key", "samples": "id", "predictions": "key"}.get(top)
        if column is None:
            return
        values = table.column(column).to_pylist()
        if top == "media":
            self.keys_of[name] = values
        for value in values:
            tagged = f"{column}:{value}"
            if tagged in self.keys:
                self.say(f"{name}: {value} is stored twice")
            self.keys.add(tagged)


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
    if "quarantined" not in totals and manifest["kind"] in ("train", "tune"):
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
