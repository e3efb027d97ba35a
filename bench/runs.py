"""Whole prepare runs, from an annotation file to committed shards, against what others would write."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import drawn, peers
from bench.figure import Figure, figure, plain
from bench.hang import hung_once
from bench.pairs import Ratio, paired
from bench.tree import TreeClock
from raypipe.cluster import connected
from raypipe.prepare.run import prepare
from raypipe.settings import DatasetSettings

CLIPS, SMALL_CLIPS = 12, 500
TALKED, DAMAGED_OF = 24, 300


class Bench:
    """A Ray and a pool that are warm, a clock over all their processes, and a folder for outputs."""

    def __enter__(self) -> Bench:
        self._folder = tempfile.TemporaryDirectory(prefix="raypipe-bench-out-")
        self.workers = peers.pool()
        self._ray = connected(quiet=True)
        self._ray.__enter__()
        self.clock = TreeClock().__enter__()
        self._made = 0
        return self

    def __exit__(self, *exc: Any) -> None:
        self.clock.__exit__(*exc)
        self._ray.__exit__(*exc)
        self.workers.terminate()
        self.workers.join()
        self._folder.cleanup()

    def out(self) -> Path:
        """A new output folder; the one before is removed, so that nothing is found and continued."""
        shutil.rmtree(Path(self._folder.name) / str(self._made), ignore_errors=True)
        self._made += 1
        return Path(self._folder.name) / str(self._made)

    def paired(self, a: Callable[[Path], Any], b: Callable[[Path], Any], pairs: int) -> Ratio:
        return paired(lambda: a(self.out()), lambda: b(self.out()), pairs, self.clock)


def to_shards(pairs: int) -> Iterator[Figure]:
    """prepare on Ray against a pool with decord, and against a naive Ray Data map."""
    files = drawn.folder_of([k.file() for k in drawn.MIX], CLIPS, "mix")
    root = files[0].parent
    run = partial(_prepare, root, _annotate(root, files), media_per_shard=CLIPS // peers.WORKERS)
    what = f"prepare on Ray: {CLIPS} clips, 12 to 60 s, mostly 720p H.264 with B-frames, to JPEG shards"
    with Bench() as bench:
        ratio = bench.paired(run, lambda out: peers.pool_decord(bench.workers, files, out), pairs)
        peer = "multiprocessing.Pool(2), decord, same encoding and shard"
        yield figure("to_shards_pool", what, peer, ratio, 0.80)
        ratio = bench.paired(run, lambda out: peers.ray_naive(files, out), pairs)
        peer = "naive Ray Data map: decord with default threads, raw frames, write_parquet"
        yield figure("to_shards_naive", what, peer, ratio, 0.55)


def ray_tax(pairs: int) -> Iterator[Figure]:
    """The same units and kernel on Ray and over a plain pool."""
    root, name = _small(SMALL_CLIPS)
    with Bench() as bench:
        on_pool = partial(_prepare, root, name, execute=peers.pool_units(bench.workers))
        ratio = bench.paired(partial(_prepare, root, name), on_pool, pairs)
    yield figure(
        "ray_tax",
        f"prepare of {SMALL_CLIPS} small clips (320x180, 4 s) on Ray",
        "the same units over multiprocessing.Pool(2)",
        ratio,
        1.08,
    )


def ten_questions(pairs: int) -> Iterator[Figure]:
    """Ten records a video against one."""
    root, _ = _small(SMALL_CLIPS)
    files = sorted(root.glob("*.mp4"))[:TALKED]
    names = [_annotate(root, files, records, f"talk{records}.json") for records in (10, 1)]
    with Bench() as bench:
        ten, one = (partial(_prepare, root, name) for name in names)
        ratio = bench.paired(ten, one, pairs)
    yield figure(
        "ten_questions",
        f"prepare of {TALKED} small clips with 10 records each",
        "1 record each",
        ratio,
        1.05,
    )


def damaged(pairs: int) -> Iterator[Figure]:
    """One clip of a hundred damaged, against none; and what a clip that hangs costs."""
    root, name = _small(DAMAGED_OF)
    files = drawn.folder_of([k.file() for k in drawn.SMALL], DAMAGED_OF, "small-damaged")
    _damage(files)
    bad_root, bad_name = files[0].parent, _annotate(files[0].parent, files)
    with Bench() as bench:
        counted = _prepare(bad_root, bad_name, bench.out())
        ratio = bench.paired(partial(_prepare, bad_root, bad_name), partial(_prepare, root, name), pairs)
    if not counted["quarantined"]:
        raise AssertionError("no damage was found: the fault did not fire")
    yield figure(
        "damaged",
        f"prepare of {DAMAGED_OF} small clips, {DAMAGED_OF // 100} of them damaged",
        "all whole",
        ratio,
        1.03,
        quarantined=counted["quarantined"],
        wall_verdict="met" if ratio.wall_median <= 1.03 else "missed",
    )
    yield from _hanging()


def _hanging() -> Iterator[Figure]:
    """One hang is measured with a short limit; the rest is arithmetic with the limits as they are set."""
    clip = drawn.LONG.file()
    with TreeClock() as clock:
        seen = hung_once(clip, clock)
    limits = DatasetSettings(name="x", data_root="x", annotations=["x"], out="x").limits
    idle_s = limits.stall_s * limits.tries
    per_clip_s = seen["clean_wall_s"]
    lost = 0.001 * (idle_s + seen["extra_cpu_s"]) / per_clip_s
    yield plain(
        "hanging_worker_time",
        "worker time lost with 0.1 % hanging clips among 60 s 720p clips (arithmetic: "
        f"{limits.stall_s:g} s without a sign of life x {limits.tries} tries, {per_clip_s:.2f} s a clip)",
        lost,
        "share of worker time",
        0.03,
        measured=seen,
        note="the child was stopped in the middle of the clip: no file is known that makes this decoder hang",
    )
    yield plain(
        "hanging_cpu",
        "CPU lost with 0.1 % hanging clips, the same arithmetic with the CPU of one measured hang",
        0.001 * seen["extra_cpu_s"] / seen["clean_cpu_s"],
        "share of CPU",
        0.03,
    )


def _small(count: int) -> tuple[Path, str]:
    files = drawn.folder_of([k.file() for k in drawn.SMALL], count, "small")
    return files[0].parent, _annotate(files[0].parent, files, name=f"of{count}.json")


def _annotate(root: Path, files: Sequence[Path], records: int = 1, name: str = "bench.json") -> str:
    rows = [
        {
            "id": f"{file.stem}-{n}",
            "video": file.name,
            "conversations": [
                {"from": "human", "value": f"<video>\nQuestion {n}?"},
                {"from": "gpt", "value": "An answer."},
            ],
        }
        for file in files
        for n in range(records)
    ]
    (root / name).write_text(json.dumps(rows))
    return name


def _prepare(root: Path, annotations: str, out: Path, execute: Any = None, **more: Any) -> dict[str, Any]:
    settings = DatasetSettings(
        name="bench", data_root=str(root), annotations=[annotations], out=str(out), error_budget=0.5, **more
    )
    return prepare(settings, execute=execute) if execute else prepare(settings)


def _damage(files: Sequence[Path]) -> None:
    """Every hundredth file, once: bytes of the stream overwritten, or cut in half; the same each time."""
    marker = files[0].parent / "damaged"
    if marker.exists():
        return
    rng = np.random.default_rng(1)
    for turn, file in enumerate(files[50::100]):
        data = bytearray(file.read_bytes())
        middle = len(data) // 2
        if turn % 3 == 2:
            del data[middle:]
        else:
            data[middle : middle + 1500] = rng.bytes(1500)
        file.write_bytes(bytes(data))
    marker.touch()
