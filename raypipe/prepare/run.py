"""The prepare verb: annotations + media -> shards, quarantine, manifest; Ray Data does the work."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from raypipe.cluster import unwrapped
from raypipe.errors import BudgetError
from raypipe.prepare.plan import Unit, plan
from raypipe.prepare.read import read_annotations
from raypipe.prepare.work import UNITS, decode_unit, read_record_of, record_name
from raypipe.records import (
    INDEX_SCHEMA,
    SAMPLE_SCHEMA,
    Clip,
    MediumRef,
    Rejection,
    Sample,
    rejections_of,
    to_table,
)
from raypipe.settings import DatasetSettings
from raypipe.store.files import Store
from raypipe.store.run import FileEntry, Manifest, Progress, Run
from raypipe.store.shards import encode, sha256

SAMPLES_PER_SHARD = 16384

Executor = Callable[[list[Unit], Store, DatasetSettings, Progress | None], list[dict[str, Any]]]


def prepare(
    settings: DatasetSettings, *, progress: Progress | None = None, execute: Executor | None = None
) -> dict[str, Any]:
    """Prepares one dataset, or continues it.

    Args:
        progress: called with (units done, units in all).
        execute: what carries out the units; Ray Data unless said otherwise.

    Returns:
        the totals of the manifest.

    Raises:
        RequestError: missing data root or annotation file.
        BudgetError: more records in quarantine than the error budget allows; the rest is committed.
    """
    clips, rejections = read_annotations(settings)  # first, so that a wrong request leaves no folder behind
    run = Run.start(settings.out, "prepare", settings)
    keys, units = plan(settings, clips)
    done = _committed(run.store, units)
    todo = [u for u in units if u.id not in done]
    for record in (execute or on_ray)(todo, run.store, settings, progress) if todo else []:
        done[record["unit"]] = record
    records = [done[u.id] for u in units]
    totals = _commit(run, settings, clips, keys, records, rejections)
    check_budget(run, totals, settings.error_budget)
    return totals


def on_ray(
    units: list[Unit], store: Store, settings: DatasetSettings, progress: Progress | None
) -> list[dict[str, Any]]:
    """Carries out units as Ray Data tasks, one CPU each."""
    import ray.data

    limits = settings.limits
    rows = [{"unit": unit.pack()} for unit in units]

    def work(row: dict[str, Any]) -> dict[str, Any]:
        return {"record": json.dumps(decode_unit(Unit.unpack(row["unit"]), store, limits))}

    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        work, num_cpus=1, concurrency=settings.concurrency
    )
    out: list[dict[str, Any]] = []
    with unwrapped("prepare"):
        for row in dataset.iter_rows():
            out.append(json.loads(row["record"]))
            if progress:
                progress(len(out), len(units))
    return out


def check_budget(run: Run, totals: dict[str, int], budget: float) -> None:
    """Refuses, after the commit, a run with more bad records than the budget allows."""
    bad, inputs = totals["quarantined"], totals["inputs"]
    if inputs and bad / inputs > budget:
        raise BudgetError(
            f"{bad} of {inputs} records ({100 * bad / inputs:.1f} %) are in quarantine, the error budget is "
            f"{100 * budget:.1f} %; the {totals['ok']} good ones are committed in {run.store.root}",
            f"look at {run.store.root}/quarantine.jsonl, repair and run again, or raise error_budget=",
            totals,
        )


def _committed(store: Store, units: list[Unit]) -> dict[str, dict[str, Any]]:
    """Records of the units whose shard is there too; the others are forgotten and done again."""
    records, media = set(store.list(UNITS, ".json")), set(store.list("media", ".arrow"))
    done: dict[str, dict[str, Any]] = {}
    for name, unit in ((record_name(u.id), u.id) for u in units):
        if name not in records:
            continue
        record = read_record_of(store, unit)
        if record is None or (record["file"] and record["file"]["path"] not in media):
            store.delete(name)
        else:
            done[unit] = record
    return done


def _commit(
    run: Run,
    settings: DatasetSettings,
    clips: list[Clip],
    keys: dict[MediumRef, str],
    records: list[dict[str, Any]],
    rejections: list[Rejection],
) -> dict[str, int]:
    bad_media = {r.id: r for record in records for r in rejections_of(record["rejections"])}
    samples: list[Sample] = []
    for clip in clips:
        fault = next((bad_media[keys[ref]] for ref in clip.media if keys[ref] in bad_media), None)
        if fault:
            detail = f"{clip.source}: {fault.detail}"
            rejections.append(Rejection(clip.id, "sample", fault.reason, detail, fault.path))
            continue
        media = tuple(keys[ref] for ref in clip.media)
        samples.append(Sample(clip.id, clip.dataset, clip.turns, media, tuple(r.kind for r in clip.media)))
    files = [FileEntry(**r["file"]) for r in records if r["file"]]
    files += [run.entry(record_name(r["unit"]), 0) for r in records]
    run.reopen()
    _sweep(run.store, files)
    index = _index(records)
    files += _write_samples(run.store, samples)
    files.append(
        _write(run.store, "index.arrow", pa.Table.from_pylist(index, schema=INDEX_SCHEMA), len(index))
    )
    totals = {
        "inputs": len(samples) + sum(1 for r in rejections if r.what == "sample"),
        "ok": len(samples),
        "quarantined": sum(1 for r in rejections if r.what == "sample"),
        "media": len(keys),
        "media_ok": len(keys) - len(bad_media),
        "media_quarantined": len(bad_media),
        "frames": sum(r["frames"] for r in records),
        "bytes": sum(f.bytes for f in files),
    }
    manifest = Manifest(
        kind="prepare",
        files=files,
        totals=totals,
        inputs={"media_sha256": {k: v for r in records for k, v in r["source_sha256"].items()}},
        software={p: importlib.metadata.version(p) for p in ("av", "decord", "pillow", "pyarrow")},
        facts={"sampling": settings.sampling.model_dump(), "rendition": settings.rendition.model_dump()},
    )
    run.commit(manifest, [*rejections, *bad_media.values()])
    return totals


def _sweep(store: Store, files: list[FileEntry]) -> None:
    """Removes shards that no unit names (left by a kill), and units of another plan."""
    named = {f.path for f in files}
    for name in [*store.list("media"), *store.list(UNITS)]:
        if name not in named:
            store.delete(name)


def _index(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [
        {
            "key": key,
            "what": "medium",
            "shard": r["file"]["path"],
            "batch": i,
            "row": 0,
            "offset": block[0],
            "length": block[1],
        }
        for r in records
        if r["file"]
        for i, (key, block) in enumerate(zip(r["keys"], r["blocks"], strict=True))
    ]
    return sorted(rows, key=lambda row: row["key"])


def _write_samples(store: Store, samples: list[Sample]) -> list[FileEntry]:
    files = []
    for start in range(0, len(samples), SAMPLES_PER_SHARD):
        part = samples[start : start + SAMPLES_PER_SHARD]
        name = f"samples/part-{start // SAMPLES_PER_SHARD:05d}.arrow"
        files.append(_write(store, name, to_table(part, SAMPLE_SCHEMA), len(part)))
    return files


def _write(store: Store, name: str, table: Any, rows: int) -> FileEntry:
    data = encode(table, batch=1024)
    store.replace(name, data)
    return FileEntry(name, rows, len(data), sha256(data))
