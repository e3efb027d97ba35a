"""What others would write to get eight frames a clip onto disk: a plain pool, a naive Ray Data map.

The functions are imported by the pool's processes and by Ray's workers.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import decord
import numpy as np
import pyarrow as pa
from PIL import Image

from raypipe.prepare.held import Record
from raypipe.prepare.units import UnitRef
from raypipe.prepare.work import Work
from raypipe.records import MEDIA_SCHEMA

WORKERS = 2
FRAMES = 8


def pool() -> Any:
    """A plain process pool, warm: what it imports is imported."""
    made = multiprocessing.get_context("spawn").Pool(WORKERS)
    made.map(abs, range(WORKERS))
    return made


def pool_decord(workers: Any, files: Sequence[Path], out: Path) -> None:
    """decord in a pool: the same encoding, the same kind of shard with the same columns."""
    out.mkdir(parents=True)
    workers.starmap(_decord_shard, [(files[n::WORKERS], out) for n in range(WORKERS)], 1)


def ray_naive(files: Sequence[Path], out: Path) -> None:
    """Ray Data as in its examples: one row a clip, decord with its default threads, raw frames to Parquet."""
    import ray.data

    ray.data.from_items([{"path": str(f)} for f in files]).map(_raw_frames).write_parquet(str(out))


def pool_units(workers: Any):
    """An executor for ``prepare``: the same units and the same work as on Ray, over a plain pool."""

    def execute(units: Sequence[UnitRef], work: Work) -> Iterator[Record]:
        return workers.imap_unordered(work, units, 1)

    return execute


def _decord_shard(files: Sequence[Path], out: Path) -> None:
    rows = [_decord_row(f) for f in files]
    table = pa.Table.from_pylist(rows, schema=MEDIA_SCHEMA)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    data = sink.getvalue()
    (out / f"{hashlib.sha256(data).hexdigest()[:16]}.arrow").write_bytes(data)


def _decord_row(file: Path) -> dict[str, Any]:
    with open(file, "rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    reader = decord.VideoReader(str(file), num_threads=1)
    wanted = np.linspace(0, len(reader) - 1, FRAMES).astype(int)
    pictures = [Image.fromarray(f) for f in reader.get_batch(wanted).asnumpy()]
    width, height = pictures[0].size
    frames = []
    for picture in pictures:
        out = io.BytesIO()
        small = picture.resize(_size(width, height), Image.Resampling.BICUBIC)
        small.save(out, "JPEG", quality=95, subsampling=0)
        frames.append(out.getvalue())
    return {
        "key": uuid.uuid5(uuid.NAMESPACE_URL, file.name).hex[:24],
        "kind": "video",
        "path": file.name,
        "sha256": digest,
        "frames": frames,
        "pts_s": reader.get_frame_timestamp(wanted)[:, 0].tolist(),
        "frame_index": wanted.tolist(),
        "evidence": ["clean"] * FRAMES,
        "width": width,
        "height": height,
        "phash": "",
    }


def _raw_frames(row: dict[str, Any]) -> dict[str, Any]:
    reader = decord.VideoReader(row["path"])
    wanted = np.linspace(0, len(reader) - 1, FRAMES).astype(int)
    frames = [
        np.asarray(Image.fromarray(f).resize(_size(f.shape[1], f.shape[0]), Image.Resampling.BICUBIC))
        for f in reader.get_batch(wanted).asnumpy()
    ]
    return {"path": row["path"], "frames": np.stack(frames)}


def _size(width: int, height: int) -> tuple[int, int]:
    short = min(width, height)
    return round(width * 224 / short), round(height * 224 / short)
