"""Random access: every key gives its own row, a damaged file gives a DamageError and never a crash."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raypipe.errors import DamageError
from raypipe.records import INDEX_SCHEMA, MEDIA_SCHEMA, Medium, MediumKind, fingerprint, to_table
from raypipe.store.files import Store
from raypipe.store.index import Index, MediaReader, Place
from raypipe.store.shards import Shard, encode, encode_blocks

ROOT = Path(__file__).resolve().parents[2]
ALIAS, SAMPLE = fingerprint("alias"), fingerprint("sample")


def medium(number: int) -> Medium:
    frames = tuple(np.random.default_rng((number, f)).bytes(40 + number) for f in range(number % 4 + 1))
    return Medium(
        key=fingerprint(number),
        kind=MediumKind.VIDEO,
        path=f"clips/ü{number}.mp4",
        sha256=f"{number:064x}",
        frames=frames,
        pts_s=tuple(0.5 * i for i in range(len(frames))),
        frame_index=tuple(range(len(frames))),
        evidence=("clean",) * len(frames),
        width=80,
        height=48,
        phash="0" * 16,
    )


MEDIA = [medium(n) for n in range(40)]


def write(store: Store, media: list[Medium] = MEDIA, shards: int = 4, batch: int = 1) -> list[dict]:
    """Media shards and their index, with an alias of the first medium and a sample row; its rows."""
    rows = []
    for n in range(shards):
        part, name = media[n::shards], f"media/{n}.arrow"
        made = encode_blocks(to_table(part, MEDIA_SCHEMA), {"raypipe.kind": "media/1"}, batch)
        store.replace(name, made.data)
        for i, one in enumerate(part):
            offset, length = made.blocks[i // batch]
            rows.append(place(one.key, name, i // batch, i % batch, offset, length))
    rows.append({**next(r for r in rows if r["key"] == media[0].key), "key": ALIAS})
    rows.append({**place(SAMPLE, "samples/0.arrow", 0, 0, 8, 8), "what": "sample"})
    rows.sort(key=lambda r: r["key"])
    write_index(store, rows)
    return rows


def place(key: str, shard: str, batch: int, row: int, offset: int, length: int) -> dict:
    names = INDEX_SCHEMA.names
    return dict(zip(names, (key, "medium", shard, batch, row, offset, length), strict=True))


def write_index(store: Store, rows: list[dict], batch: int = 1024) -> None:
    store.replace("index.arrow", encode(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), batch=batch))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    write(store)
    return store


@pytest.fixture
def bucket(s3_root) -> Store:
    """A store in a bucket of a real S3 server on loopback."""
    return Store(s3_root)


@pytest.mark.parametrize(("rows", "index"), [(1, 1024), (1, 5), (3, 1), (8, 7)])
def test_a_row_by_key_is_the_row_of_the_shard(store, rows, index):
    """Whatever the size of the record batches of shards and index."""
    places = write(store, batch=rows)
    write_index(store, places, index)
    reader = MediaReader(store)
    for one in MEDIA:
        found = reader.index.find(one.key)
        assert reader.row(one.key) == Shard(store, found.shard, MEDIA_SCHEMA).row(found.batch, found.row)
        assert reader.row(one.key)["key"] == one.key
        assert reader.frames(one.key) == list(one.frames)
        assert [bytes(view) for view in reader.views(one.key)] == list(one.frames)


def test_a_view_outlives_the_map_of_its_shard(store):
    reader = MediaReader(store, open_shards=1)
    views = {one.key: reader.views(one.key) for one in MEDIA}
    del reader
    for one in MEDIA:
        assert views[one.key] == list(one.frames)
        assert all(view.readonly for view in views[one.key])


def test_a_block_is_the_record_batch_and_nothing_else(store):
    """The first batch too: the schema that stands before it is not part of it."""
    for batch in (1, 3):
        for row in write(store, batch=batch):
            if row["what"] == "medium":
                data = store.range(row["shard"], row["offset"], row["length"])
                part = pa.ipc.read_record_batch(pa.py_buffer(data), MEDIA_SCHEMA)
                assert part.equals(
                    pa.ipc.open_file(pa.memory_map(store.path(row["shard"]))).get_batch(row["batch"])
                )


def test_an_alias_gives_the_row_of_its_twin(store):
    reader = MediaReader(store)
    assert reader.row(ALIAS) == reader.row(MEDIA[0].key)
    assert reader.frames(ALIAS) == list(MEDIA[0].frames)


def test_an_index_says_what_a_key_is(store):
    index = Index(store)
    assert index.find(SAMPLE) == Place("sample", "samples/0.arrow", 0, 0, 8, 8)
    assert index.find(ALIAS).what == "medium"
    with pytest.raises(DamageError, match="not in the index"):
        MediaReader(store).row(SAMPLE)


@pytest.mark.parametrize("key", ["", "0" * 24, "f" * 24, "f" * 23, "f" * 25, "ü", "\ud800", "a\0"])
def test_a_key_that_is_not_there(store, key):
    reader = MediaReader(store)
    assert reader.index.find(key) is None
    for read in (reader.row, reader.frames, reader.views):
        with pytest.raises(DamageError, match="not in the index"):
            read(key)


def test_keys_of_any_length(store):
    rows = sorted(
        (place(k, f"media/{k}.arrow", 0, 0, 8, 8) for k in ("", "a", "b" * 30, "ü", "é", "zz")),
        key=lambda r: r["key"],
    )
    for batch in (1024, 2):
        write_index(store, rows, batch)
        index = Index(store)
        assert [index.find(r["key"]).shard for r in rows] == [r["shard"] for r in rows]
        assert index.find("c") is None


def test_an_empty_index_finds_nothing(store):
    write_index(store, [])
    assert Index(store).find(SAMPLE) is None


def test_a_reader_keeps_few_maps_open(store):
    """A map that was closed and opened again gives the same rows."""
    reader = MediaReader(store, open_shards=2)
    for one in MEDIA * 2:
        assert reader.frames(one.key) == list(one.frames)
    info = reader._map.cache_info()
    assert (info.currsize, info.misses) == (2, len(MEDIA) * 2)


def test_missing_files_are_damage(store):
    reader = MediaReader(store)
    store.delete("media/0.arrow")
    for read in (reader.row, reader.frames, reader.views):
        with pytest.raises(DamageError, match="missing"):
            read(MEDIA[0].key)
    store.delete("index.arrow")
    with pytest.raises(DamageError, match="missing"):
        Index(store)


def test_another_schema_is_refused(store):
    store.replace("media/0.arrow", encode(pa.table({"key": ["a"]})))
    with pytest.raises(DamageError, match="schema"):
        MediaReader(store).row(MEDIA[0].key)
    store.replace("index.arrow", encode(pa.table({"key": ["a"]})))
    with pytest.raises(DamageError, match="schema"):
        Index(store)


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": -8},
        {"offset": 1 << 62},
        {"offset": 0},
        {"offset": 9},
        {"length": 0},
        {"length": -1},
        {"length": 1 << 40},
        {"length": 64},
        {"row": 1},
        {"row": -1},
        {"batch": -1},
        {"shard": "media/9.arrow"},
    ],
)
def test_an_index_that_leads_astray_is_damage(store, wrong):
    rows = write(store)
    write_index(store, [{**r, **wrong} if r["what"] == "medium" else r for r in rows])
    reader = MediaReader(store)
    for read in (reader.row, reader.frames, reader.views):
        with pytest.raises(DamageError):
            read(MEDIA[0].key)


def test_damage_never_ends_the_process(store):
    """Each of 600 damaged shards and indexes gives every row, or DamageError; in a process of its own."""
    code = f"""
    import random, sys
    sys.path.insert(0, {str(ROOT)!r})
    from raypipe.errors import DamageError
    from raypipe.store.files import Store
    from raypipe.store.index import MediaReader
    from tests.store.test_index import MEDIA
    store = Store({store.root!r})
    rng = random.Random(4)
    refused = 0
    for name in ("media/0.arrow", "index.arrow"):
        whole = store.read(name)
        for turn in range(300):
            data = bytearray(whole)
            if turn % 10 == 0:
                del data[rng.randrange(len(data)):]
            else:
                at = rng.randrange(len(data))
                many = rng.choice((1, 4, 8, 64))
                size = len(data[at:at + many])
                data[at:at + many] = bytes(rng.choice((0, 255, rng.randrange(256))) for _ in range(size))
            store.replace(name, bytes(data))
            try:
                reader = MediaReader(store, open_shards=1)
            except DamageError:
                refused += 1
                continue
            for one in MEDIA[::4]:
                for read in (reader.row, reader.frames, reader.views):
                    try:
                        read(one.key)
                    except DamageError:
                        refused += 1
        store.replace(name, whole)
    print(refused)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 300


def test_a_million_keys_take_little_memory(tmp_path):
    """In a process of its own: under 50 MiB that are not the map's, and microseconds a key."""
    count = 1_000_000
    keys = np.sort(np.frombuffer(np.random.default_rng(1).bytes(count * 12), "S12"))
    text = pa.array([k.ljust(12, b"\0").hex() for k in keys.tolist()], pa.string())
    zeros = np.zeros(count, np.int32)
    columns = [
        text,
        pa.array(["medium"]).take(pa.array(zeros)),
        pa.array(["media/0123456789abcdef01234567-0123456789abcdef.arrow"]).take(pa.array(zeros)),
        *(pa.array(zeros) for _ in range(2)),
        pa.array(np.arange(count)),
        pa.array(np.full(count, 9)),
    ]
    table = pa.Table.from_arrays(columns, schema=INDEX_SCHEMA)
    for batch in (count, 1024):
        Store(str(tmp_path)).replace("index.arrow", encode(table, batch=batch))
        asked = [text[i].as_py() for i in range(0, count, 101)]
        (tmp_path / "asked").write_text("\n".join(asked))
        code = f"""
        from raypipe.store.files import Store
        from raypipe.store.index import Index
        asked = open({str(tmp_path / "asked")!r}).read().split()
        def own():
            return sum(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))
        before = own()
        index = Index(Store({str(tmp_path)!r}))
        found = [index.find(k).offset for k in asked]
        assert found == list(range(0, {count}, 101))
        print((own() - before) / 1024)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert float(done.stdout) < 50  # MiB


def test_remote_rows_are_one_ranged_read_each(bucket):
    """Over HTTP: the same rows, the same refusals, and never a whole shard."""
    write(bucket, MEDIA[:8], shards=2)
    asked: list[tuple[str, int, int]] = []

    class Counted(Store):
        def range(self, name: str, offset: int, length: int) -> bytes:
            if name.startswith("media/"):
                asked.append((name, offset, length))
            return super().range(name, offset, length)

        def read(self, name: str) -> bytes:
            raise AssertionError(f"all of {name} is read")

    reader = MediaReader(Counted(bucket.root))
    for one in MEDIA[:8]:
        assert reader.frames(one.key) == list(one.frames)
        assert reader.row(one.key)["path"] == one.path
    assert len(asked) == 16
    assert len(set(asked)) == 8
    bucket.replace("media/0.arrow", b"x" * 200)
    with pytest.raises(DamageError, match="damaged"):
        reader.row(MEDIA[0].key)
    bucket.delete("media/0.arrow")
    with pytest.raises(DamageError, match="missing"):
        reader.row(MEDIA[0].key)
