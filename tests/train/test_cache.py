"""Media on object storage: fetched once a node, by few requests, kept within bounds, checked when read."""

import contextlib
import itertools
import multiprocessing
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import DamageError, ServiceError
from raypipe.settings import StageSettings
from raypipe.store.files import Store
from raypipe.train.cache import MediaCache, coalesced
from raypipe.train.examples import Examples
from raypipe.train.loader import Ahead, Steps
from raypipe.train.mixture import Mixture
from raypipe.train.order import order_of
from raypipe.train.plan import plan_stage
from raypipe.train.work import Worker
from tests.support.clips import talk, write_annotations, write_image
from tests.support.faults import FaultProxy, after, fault_proxy
from tests.support.prepared import prepared
from tests.support.s3 import addressed_to
from tests.support.tiny import tiny_model

PICTURE = 30  # a sample with a picture
ROWS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), min_size=1, max_size=40)


@given(ROWS, st.integers(0, 20), st.integers(30, 200), st.sampled_from([0.0, 0.05, 0.5]))
def test_ranges_cover_each_row_once_and_waste_little(steps, gap, most, waste):
    rows, at = [], 0
    for hole, length in steps:
        rows.append((at + hole, length))
        at += hole + length
    groups = coalesced(rows[::-1], gap, most, waste)
    assert [row for group in groups for row in group] == rows
    read = sum(sum(group[-1]) - group[0][0] for group in groups)
    wanted = sum(length for _, length in rows)
    assert read <= wanted * (1 + waste)
    assert all(sum(group[-1]) - group[0][0] <= most for group in groups)
    for group in groups:
        assert all(b[0] - sum(a) <= gap for a, b in itertools.pairwise(group))


def test_rows_side_by_side_are_one_request():
    assert len(coalesced([(100 * n, 100) for n in range(50)])) == 1
    assert len(coalesced([(100 * n, 100) for n in range(50)], most=1000)) == 5
    assert len(coalesced([(300 * n, 100) for n in range(50)])) > 40


def test_what_was_kept_is_read_back_and_damage_is_not(tmp_path):
    cache = MediaCache(tmp_path, 1 << 20)
    assert cache.read("aa-1") is None
    cache.put("aa-1", b"some bytes")
    assert cache.read("aa-1") == b"some bytes"
    file = tmp_path / "aa" / "aa-1"
    for damaged in (file.read_bytes()[:-3], b"", b"s0me bytes" + file.read_bytes()[-4:]):
        cache.put("aa-1", b"some bytes")
        file.write_bytes(damaged)
        assert cache.read("aa-1") is None
        assert not file.exists()


def test_what_was_used_longest_ago_makes_room(tmp_path):
    cache = MediaCache(tmp_path, 10_000)
    for number in range(8):
        cache.put(f"a{number}-row", bytes(1000))
        os.utime(tmp_path / f"a{number}" / f"a{number}-row", (number, number))
    assert cache.read("a0-row")  # used now, so it is the youngest
    for number in (8, 9):
        cache.put(f"a{number}-row", bytes(1000))
    kept = {p.name for p in tmp_path.glob("a*/*")}
    assert "a0-row" in kept
    assert {"a8-row", "a9-row"} <= kept
    assert "a1-row" not in kept
    assert kept_in(tmp_path) <= 10_000


def kept_in(folder: Path) -> int:
    """Bytes of rows in a cache, while others may be at work on it."""
    total = 0
    for path in folder.glob("*/*"):
        if path.parent.name != "locks" and not path.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def _fill(folder: str, first: int, held: "multiprocessing.Queue[int]") -> None:
    cache = MediaCache(Path(folder), 50_000)
    for number in range(first, first + 60):
        cache.put(f"{number % 7:02d}-{number}", bytes([number % 256]) * 1000)
        assert cache.read(f"{number % 7:02d}-{number}") in (None, bytes([number % 256]) * 1000)
        held.put(kept_in(Path(folder)))


def test_several_processes_stay_within_the_limit_together(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Queue()
    workers = [context.Process(target=_fill, args=(str(tmp_path), n * 100, held)) for n in range(3)]
    for worker in workers:
        worker.start()
    sizes = [held.get(timeout=60) for _ in range(180)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert 30_000 < max(sizes) <= 50_000


def test_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "aa").write_text("a file where a folder must be")
    with pytest.raises(ServiceError, match="cannot write") as fault:
        MediaCache(tmp_path, 1000).put("aa-1", b"x")
    assert "cache.folder" in fault.value.remedy


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A run of 96 pictures in six shards, two questions about each, and a few samples of text."""
    root = tmp_path_factory.mktemp("many")
    records = [{"conversations": talk(f"What is {n}?", "A number.")} for n in range(20)]
    for number in range(96):
        file = write_image(root / f"data/more/i{number:03d}.png", number % 50)
        os.utime(file, (1e9, 1e9))  # a medium's key, and with it the order of the shards, depends on it
        for asked in ("What is it?", "What colour does it have, then, and which number?"):
            records.append(
                {"image": f"more/i{number:03d}.png", "conversations": talk(f"<image>\n{asked}", "Blue.")}
            )
    write_annotations(root / "data", records)
    with contextlib.chdir(root):  # the shards' names depend on the data root's
        prepared(Path("data"), root / "run", media_per_shard=1)
    return root / "run"


@pytest.fixture
def proxy(s3_server):
    with fault_proxy(s3_server) as made, addressed_to(made.url):
        yield made


@pytest.fixture
def remote(many, s3_root, proxy) -> str:
    """The run's address on S3, reached through the proxy."""
    target = Store(s3_root)
    for file in sorted(p for p in many.rglob("*") if p.is_file()):
        target.replace(str(file.relative_to(many)), file.read_bytes())
    proxy.answered.clear()
    return s3_root


def stage(data: str, folder: Path, **more) -> StageSettings:
    base = {
        "name": "s",
        "out": "o",
        "start": {"random": "tiny"},
        "mixture": [{"data": data}],
        "max_tokens": 1024,
    }
    cache = {"folder": str(folder), "gib": 1.0}
    return StageSettings.model_validate(
        {**base, "cache": cache, "global_batch": 8, "shuffle_window": 64, **more}
    )


def media_bytes(proxy: FaultProxy) -> list[int]:
    """Bytes of each answer that came out of a media shard."""
    return [size for method, path, size in proxy.answered if method == "GET" and "/media/" in path]


def epoch_of(chosen: StageSettings, rank: int, world: int, last: int | None = None):
    """All works of a rank, read the way a stage reads them."""
    plan = plan_stage(chosen)
    mixture = Mixture(plan.data, chosen.cache)
    last = last or plan.steps
    worker = Worker(rank, world, torch.device("cpu"))
    steps = Steps(
        Examples(mixture, tiny_model(), chosen),
        order_of(mixture, plan, chosen),
        worker,
        chosen,
        torch.float32,
        last,
    )
    ahead = Ahead(steps, 0, last)
    try:
        return mixture, [ahead.take() for _ in range(last)]
    finally:
        ahead.close()


# Packing puts samples of one medium into rows of several nodes: each of the two may be read on its own.
@pytest.mark.parametrize(
    ("more", "most"),
    [({}, 1.1), ({"group_by_length": True}, 1.1), ({"packing": True, "max_tokens": 60}, 2.0)],
)
def test_an_epoch_from_s3_reads_each_medium_about_once_by_few_requests(
    many, remote, proxy, tmp_path, more, most
):
    """Two nodes of two ranks each, every node with its own cache; the same batches as from local disk."""
    total = rows = 0
    for rank in range(4):
        chosen = stage(remote, tmp_path / f"node{rank // 2}", shuffle_window=256, **more)
        mixture, works = epoch_of(chosen, rank, 4)
        local = epoch_of(stage(str(many), tmp_path / "unused", shuffle_window=256, **more), rank, 4)[1]
        for ours, theirs in zip(works, local, strict=True):
            assert ours.seen == theirs.seen
            for a, b in zip(ours.batches, theirs.batches, strict=True):
                assert all(torch.equal(a.pixels[k], b.pixels[k]) for k in b.pixels)
        total, rows = int(mixture.columns.row_length.sum()), len(mixture.columns.row_length)
    fetched = media_bytes(proxy)
    assert total * 0.99 <= sum(fetched) <= most * total
    assert len(fetched) <= 0.6 * rows * most
    assert not (tmp_path / "unused").exists()
    before = len(fetched)
    epoch_of(stage(remote, tmp_path / "node0", shuffle_window=256, **more), 0, 4)
    assert len(media_bytes(proxy)) == before  # all of it is kept


def test_ranks_of_a_node_at_the_same_time_fetch_nothing_twice(remote, proxy, tmp_path):
    chosen = stage(remote, tmp_path / "node", global_batch=8)
    mixtures = [Mixture([remote], chosen.cache) for _ in range(3)]
    rows = np.arange(len(mixtures[0].columns.row_length))
    for mixture in mixtures:
        assert len(mixture.columns.rows) > 0
    proxy.answered.clear()
    ranks = [threading.Thread(target=mixture.fetch, args=(rows,)) for mixture in mixtures]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    length = mixtures[0].columns.row_length
    assert sum(media_bytes(proxy)) <= 1.05 * length.sum()
    assert len(media_bytes(proxy)) < len(rows) / 4


def test_a_row_that_spoiled_in_the_cache_is_fetched_again(remote, proxy, tmp_path):
    chosen = stage(remote, tmp_path / "node")
    mixture = Mixture([remote], chosen.cache)
    expected = mixture.frames(PICTURE)
    (file,) = (p for p in (tmp_path / "node").glob("*/*") if "-" in p.name and "locks" not in str(p))
    whole = file.read_bytes()
    asked = len(media_bytes(proxy))
    for damaged in (whole[:-1], whole[:40] + b"\x00" * 40 + whole[80:], kept_as(b"no Arrow at all")):
        file.write_bytes(damaged)
        assert mixture.frames(PICTURE) == expected
        assert file.read_bytes() == whole
        asked += 1
        assert len(media_bytes(proxy)) == asked


def kept_as(data: bytes) -> bytes:
    """A cache file that is whole, of bytes that are no row."""
    return data + zlib.crc32(data).to_bytes(4, "big")


def test_a_shard_that_is_damaged_itself_is_damage(remote, tmp_path):
    chosen = stage(remote, tmp_path / "node")
    mixture = Mixture([remote], chosen.cache)
    columns = mixture.columns
    row = columns.rows[columns.starts[PICTURE]]
    Store(remote).replace(columns.shards[columns.row_shard[row]], b"nothing of the kind")
    mixture.fetch(columns.rows_of([PICTURE]))
    with pytest.raises(DamageError):
        mixture.frames(PICTURE)


def test_a_cache_too_small_for_a_window_works_in_pieces(many, remote, proxy, tmp_path):
    total = int(Mixture([str(many)]).columns.row_length.sum())
    cache = {"folder": str(tmp_path / "node"), "gib": total / 2 / (1 << 30)}
    mixture, works = epoch_of(stage(remote, tmp_path, cache=cache), 0, 1)
    assert sum(len(w.seen) for w in works) == len(mixture)
    assert 0 < kept_in(tmp_path / "node") <= total / 2
    assert sum(media_bytes(proxy)) <= 2 * total


def test_a_service_that_fails_comes_out_at_its_step(remote, proxy, tmp_path):
    """What passes by itself is not seen; what does not ends in one sentence, and no thread is left."""
    chosen = stage(remote, tmp_path / "node")
    proxy.plan = after(0, "503", times=2, method="GET")
    _, works = epoch_of(chosen, 0, 2, last=2)
    assert proxy.fired
    assert len(works) == 2
    proxy.plan = lambda method, path: "denied" if "/media/" in path else None
    with pytest.raises(ServiceError, match="access denied"):
        epoch_of(stage(remote, tmp_path / "other"), 0, 2)
    for thread in threading.enumerate():
        if thread.name.startswith(("loader", "fetch", "decode")):
            thread.join(30)
            assert not thread.is_alive()
