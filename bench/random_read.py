"""One stored clip by its key: raypipe's shards against a tar with an index of offsets.

Both lie in the page cache; both arms start from a key and end with the clip's eight JPEG frames as ``bytes``.
"""

from __future__ import annotations

import io
import mmap
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from bench.figure import Figure, figure
from bench.pairs import paired
from raypipe.records import INDEX_SCHEMA, MEDIA_SCHEMA, Medium, MediumKind, fingerprint, to_table
from raypipe.store.files import Store
from raypipe.store.index import MediaReader
from raypipe.store.shards import encode, encode_blocks

CLIPS, PER_SHARD, READS = 2048, 64, 20_000
TARGET = 1.2
Read = Callable[[str], list[bytes]]


def random_read(pairs: int) -> Iterator[Figure]:
    """Against reading the clip's span of the tar in one go, and against the tar through a memory map."""
    media = _media()
    order = np.random.default_rng(2).integers(0, CLIPS, READS)
    keys = [media[n].key for n in order]
    with tempfile.TemporaryDirectory(prefix="raypipe-bench-read-") as folder:
        arms = {"shards": _shards(media, folder), **_tars(media, folder)}
        for medium in media[:: CLIPS // 64]:
            for name, read in arms.items():
                if read(medium.key) != list(medium.frames):
                    raise AssertionError(f"{name} gives other frames")
        sizes = [sum(map(len, m.frames)) >> 10 for m in media]
        what = f"raypipe: {READS} random reads of {CLIPS} clips, {min(sizes)} to {max(sizes)} KiB each"
        for name, peer, says in (
            (
                "random_read",
                "tar, read",
                "tar with an offset index: seek and read of the clip's span, sliced",
            ),
            ("random_read_mapped", "tar, mapped", "the same tar through a memory map"),
        ):
            ratio = paired(_all(arms["shards"], keys), _all(arms[peer], keys), pairs)
            per_read = {"a_us": round(ratio.a_s / READS * 1e6, 2), "b_us": round(ratio.b_s / READS * 1e6, 2)}
            yield figure(name, what, says, ratio, TARGET, **per_read)


def _all(read: Read, keys: list[str]) -> Callable[[], None]:
    def work() -> None:
        for key in keys:
            read(key)

    return work


def _media() -> list[Medium]:
    """Clips of eight different JPEG pictures of 398x224, each 11 to 25 KiB."""
    rng = np.random.default_rng(3)
    pictures = []
    for quality in np.linspace(70, 97, 300).astype(int):  # of no matter here but for the sizes
        smooth = Image.fromarray(rng.integers(0, 255, (6, 10, 3), dtype=np.uint8)).resize((398, 224))
        noisy = np.asarray(smooth) + rng.normal(0, 1.5, (224, 398, 1))
        out = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=int(quality))
        if 11 << 10 <= len(out.getvalue()) <= 25 << 10:
            pictures.append(out.getvalue())
    starts = rng.integers(0, len(pictures) - 8, CLIPS)
    return [
        Medium(
            key=fingerprint(n),
            kind=MediumKind.VIDEO,
            path=f"videos/{n:06d}.mp4",
            sha256=fingerprint(n, digest_size=32),
            frames=tuple(pictures[starts[n] : starts[n] + 8]),  # one clip's frames are of like size
            pts_s=tuple(float(i) for i in range(8)),
            frame_index=tuple(range(8)),
            evidence=("clean",) * 8,
            width=1280,
            height=720,
            phash="0" * 16,
        )
        for n in range(CLIPS)
    ]


def _shards(media: list[Medium], folder: str) -> Read:
    store = Store(f"{folder}/run")
    rows = []
    for start in range(0, CLIPS, PER_SHARD):
        part = media[start : start + PER_SHARD]
        made = encode_blocks(to_table(part, MEDIA_SCHEMA))
        name = f"media/{fingerprint('unit', start)}-{start:016x}.arrow"
        store.replace(name, made.data)
        places = [(m.key, "medium", name, i, 0, *made.blocks[i]) for i, m in enumerate(part)]
        rows += [dict(zip(INDEX_SCHEMA.names, place, strict=True)) for place in places]
    rows.sort(key=lambda row: row["key"])
    store.replace("index.arrow", encode(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), batch=1024))
    return MediaReader(store).frames


def _tars(media: list[Medium], folder: str) -> dict[str, Read]:
    name = Path(folder) / "clips.tar"
    with tarfile.open(name, "w") as tar:
        for medium in media:
            for number, frame in enumerate(medium.frames):
                member = tarfile.TarInfo(f"{medium.key}.{number}.jpg")
                member.size = len(frame)
                tar.addfile(member, io.BytesIO(frame))
    places: dict[str, list[tuple[int, int]]] = {}
    with tarfile.open(name) as tar:
        for member in tar:
            key = member.name.split(".")[0]
            places.setdefault(key, []).append((member.offset_data, member.offset_data + member.size))
    spans = {
        key: (found[0][0], found[-1][1] - found[0][0], [(a - found[0][0], z - found[0][0]) for a, z in found])
        for key, found in places.items()
    }
    file = open(name, "rb", buffering=0)  # noqa: SIM115 - open as long as the process measures
    view = memoryview(mmap.mmap(os.dup(file.fileno()), 0, prot=mmap.PROT_READ))

    def read(key: str) -> list[bytes]:
        offset, length, parts = spans[key]
        file.seek(offset)
        data = file.read(length)
        return [data[a:z] for a, z in parts]

    def mapped(key: str) -> list[bytes]:
        return [view[a:z].tobytes() for a, z in places[key]]

    return {"tar, read": read, "tar, mapped": mapped}
