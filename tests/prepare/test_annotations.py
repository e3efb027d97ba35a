"""All annotation files of a dataset as one stream: patterns, changes, memory, S3, near names."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import RequestError
from raypipe.prepare.near import forget, nearest_medium
from raypipe.prepare.read import Annotations
from raypipe.prepare.seen import NAME_BYTES, Seen
from raypipe.records import Clip, Rejection
from tests.support.clips import talk, write_annotations
from tests.support.prepared import dataset

STRUCT = pa.list_(pa.struct([("from", pa.string()), ("value", pa.large_string())]))


def test_a_file_of_each_format_gives_the_same_clips(tmp_path):
    records = [{"video": f"v{n % 3}.mp4", "conversations": talk(f"<video>\nq{n % 4}", "a")} for n in range(9)]
    root = tmp_path / "data"
    write_annotations(root, records, "a.json")
    (root / "a.jsonl").write_text("\n".join(json.dumps(r) for r in records))
    schema = pa.schema([("video", pa.string()), ("conversations", STRUCT)])
    pq.write_table(pa.Table.from_pylist(records, schema), root / "a.parquet")
    read = {}
    for name in ("a.json", "a.jsonl", "a.parquet"):
        annotations = Annotations(dataset(root, tmp_path / "out", annotations=[name]))
        clips = list(annotations)
        assert all(isinstance(c, Clip) for c in clips)
        assert annotations.records == {name: 9}
        assert annotations.fingerprint == {name: hashlib.sha256((root / name).read_bytes()).hexdigest()}
        assert list(annotations) == clips
        read[name] = [(c.id, c.media, c.turns) for c in clips]
        read[f"{name} places"] = [c.source for c in clips]
    assert read["a.json"] == read["a.jsonl"] == read["a.parquet"]
    assert len({i for i, _, _ in read["a.json"]}) == 9
    assert read["a.json places"][:2] == ["a.json#0", "a.json#1"]
    assert read["a.jsonl places"][:2] == ["a.jsonl:1", "a.jsonl:2"]


def test_the_first_records_of_all_files(tmp_path):
    records = [{"video": f"v{n}.mp4", "conversations": talk("<video>\nq", f"a{n}")} for n in range(9)]
    root = tmp_path / "data"
    write_annotations(root, records[:4], "a.json")
    (root / "b.jsonl").write_text("\n".join(json.dumps(r) for r in records[4:7]))
    schema = pa.schema([("video", pa.string()), ("conversations", STRUCT)])
    pq.write_table(pa.Table.from_pylist(records[7:], schema), root / "c.parquet")
    names = ["a.json", "b.jsonl", "c.parquet"]
    everything = [c.id for c in Annotations(dataset(root, tmp_path / "out", annotations=names))]
    for limit in (1, 4, 5, 8, 9, 20):
        read = Annotations(dataset(root, tmp_path / "out", annotations=names, limit=limit))
        assert [c.id for c in read] == everything[:limit]
        assert sum(read.records.values()) == min(limit, 9)
        assert read.fingerprint.keys() <= set(names)
        again = Annotations(dataset(root, tmp_path / "out", annotations=names, limit=limit))
        assert [c.id for c in again] == [c.id for c in again] == everything[:limit]
        assert again.fingerprint == read.fingerprint
    first = Annotations(dataset(root, tmp_path / "out", annotations=names, limit=4))
    list(first)
    assert first.records == {"a.json": 4, "b.jsonl": 0, "c.parquet": 0}
    assert first.fingerprint.keys() == {"a.json"}


def test_patterns_name_files_in_order_and_each_once(tmp_path):
    for name in ("b/2.json", "b/10.json", "b/x.jsonl", "c/1.json", "b/[1].json"):
        write_annotations(tmp_path / Path(name).parent, [], Path(name).name)
    read = Annotations(dataset(tmp_path, tmp_path / "out", annotations=["b/2.json", "?/*.json"]))
    assert read.files == ["b/2.json", "b/10.json", "b/[1].json", "c/1.json"]
    assert Annotations(dataset(tmp_path, tmp_path / "out", annotations=["b/[*.json"])).files == ["b/[1].json"]
    with pytest.raises(RequestError, match="no annotation file fits") as fault:
        Annotations(dataset(tmp_path, tmp_path / "out", annotations=["d/1*.json"]))
    assert "did you mean 'c/1.json'?" in fault.value.remedy


def test_what_cannot_be_read_is_said_before_anything_is_read(tmp_path):
    write_annotations(tmp_path, [], "a.txt")
    with pytest.raises(RequestError, match=r"nothing is known of files in '\.txt'"):
        Annotations(dataset(tmp_path, tmp_path / "out", annotations=["a.txt"]))
    assert list(Annotations(dataset(tmp_path, tmp_path, annotations=["a.txt"], reader="llava_json"))) == []
    with pytest.raises(RequestError, match="does not say where a video lies"):
        Annotations(
            dataset(tmp_path, tmp_path, annotations=["a.txt"], reader="video_chatgpt", media_path="a.mp4")
        )
    with pytest.raises(RequestError, match="cannot read data_root"):
        Annotations(dataset(tmp_path, tmp_path, data_root="nowhere://x/y"))


def test_a_file_that_changes_is_refused(tmp_path):
    write_annotations(tmp_path, [{"conversations": talk("q", "a")}] * 3)
    annotations = Annotations(dataset(tmp_path, tmp_path / "out"))
    assert len(list(annotations)) == 3
    write_annotations(tmp_path, [{"conversations": talk("q", "a")}] * 4)
    with pytest.raises(RequestError, match="was changed"):
        list(annotations)
    again = Annotations(dataset(tmp_path, tmp_path / "out"))
    stream = iter(again)
    next(stream)
    write_annotations(tmp_path, [{"conversations": talk("q", "a")}] * 5)
    with pytest.raises(RequestError, match="was changed"):
        list(stream)


def test_the_fingerprint_is_known_after_a_full_pass_only(tmp_path):
    write_annotations(tmp_path, [{"conversations": talk("q", "a")}] * 3)
    annotations = Annotations(dataset(tmp_path, tmp_path / "out"))
    next(iter(annotations))
    with pytest.raises(RuntimeError, match="known only when"):
        _ = annotations.fingerprint
    assert len(list(annotations)) == 3
    assert list(annotations.fingerprint) == ["tune.json"]


def test_annotations_on_s3(s3_root):
    import fsspec

    fs = fsspec.core.url_to_fs(s3_root)[0]
    records = [{"conversations": talk(f"q{n}", "a")} for n in range(50)]
    fs.pipe_file(f"{s3_root}/pt/a.json", json.dumps(records).encode())
    fs.pipe_file(f"{s3_root}/pt/b.jsonl", "\n".join(json.dumps(r) for r in records).encode())
    table = pa.Table.from_pylist(records, pa.schema([("conversations", STRUCT)]))
    with fs.open(f"{s3_root}/pt/c.parquet", "wb") as file:
        pq.write_table(table, file)
    annotations = Annotations(dataset(Path("/"), Path("/out"), data_root=s3_root, annotations=["pt/*"]))
    clips = list(annotations)
    assert annotations.records == {"pt/a.json": 50, "pt/b.jsonl": 50, "pt/c.parquet": 50}
    assert [c.turns for c in clips[:50]] == [c.turns for c in clips[50:100]] == [c.turns for c in clips[100:]]
    assert annotations.fingerprint["pt/a.json"] == hashlib.sha256(json.dumps(records).encode()).hexdigest()
    fs.pipe_file(f"{s3_root}/pt/a.json", json.dumps(records[1:]).encode())
    with pytest.raises(RequestError, match="was changed"):
        list(annotations)
    with pytest.raises(RequestError, match="no such annotation file") as fault:
        Annotations(dataset(Path("/"), Path("/out"), data_root=s3_root, annotations=["pt/aa.json"]))
    assert "did you mean 'pt/a.json'?" in fault.value.remedy


MEMORY = """
import resource, sys
from raypipe.prepare.read import Annotations
from raypipe.settings import DatasetSettings
settings = DatasetSettings(name="d", data_root=sys.argv[1], annotations=[sys.argv[2]], out="x")
next(iter(Annotations(settings)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in Annotations(settings))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    record = json.dumps({"conversations": talk("q" * 20_000, "a" * 20_000)})
    with open(tmp_path / name, "w") as file:
        mark = "," if name == "a.json" else "\n"
        file.write("[" * (name == "a.json") + mark.join([record] * 2000) + "]" * (name == "a.json"))
    assert os.path.getsize(tmp_path / name) > 75 << 20
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), name], capture_output=True, text=True, check=True
    ).stdout
    count, grown_kib = map(int, out.split())
    assert count == 2000
    assert grown_kib < 8 << 10


@given(st.lists(st.integers(0, 40), max_size=120), st.sampled_from([4, 8]))
@settings(max_examples=100)
def test_seen_counts_as_a_dictionary_does(numbers, slots):
    # Few different first bytes, so that names compete for slots.
    names = [bytes([n % 3]) * 8 + n.to_bytes(4, "big") if n else bytes(NAME_BYTES) for n in numbers]
    seen, plain = Seen(slots), {}
    for name in names:
        plain[name] = plain.get(name, 0) + 1
        assert seen.count(name) == plain[name]


def test_rejections_have_ids_from_content_too(tmp_path):
    (tmp_path / "tune.jsonl").write_text('{"a"\n5\n{"a"\n')
    rejections = list(Annotations(dataset(tmp_path, tmp_path / "out", annotations=["tune.jsonl"])))
    assert [type(r) for r in rejections] == [Rejection] * 3
    assert len({r.id for r in rejections}) == 3
    (tmp_path / "tune.jsonl").write_text('5\n{"a"\n')
    again = list(Annotations(dataset(tmp_path, tmp_path / "out", annotations=["tune.jsonl"])))
    assert [r.id for r in again] == [rejections[1].id, rejections[0].id]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("valley/1/clip.mp4", ""),  # it is there
        ("valley/1/Clip.MP4", "did you mean 'valley/1/clip.mp4'?"),
        ("valley/1/clip.avi", "did you mean 'valley/1/clip.mp4'?"),
        ("valley/1/clipp.mp4", "did you mean 'valley/1/clip.mp4'?"),
        ("valley/1/other.mp4", ""),
        ("Valley/1/clip.mp4", "did you mean 'valley/1/clip.mp4'?"),
        ("valley/7/clip.mp4", "no folder 'valley/7'"),
        ("llava_image/1.png", "no folder 'llava_image'"),
        ("DATA_ROOT/valley/1/clip.mp4", "one folder too deep"),
        ("../DATA_ROOT/valley/1/clip.mp4", ""),
        ("/etc/passwd", ""),
        ("s3://a/b", ""),
        ("a\0b", ""),
        ("", ""),
    ],
)
def test_a_missing_medium_has_a_near_name(tmp_path, path, said):
    root = tmp_path / "DATA_ROOT"
    for name in ("valley/1/clip.mp4", "valley/1/unlike.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    forget()
    found = nearest_medium(str(root), path)
    assert said in found
    assert bool(said) == bool(found)


def test_a_near_name_on_s3(s3_root):
    import fsspec

    fsspec.core.url_to_fs(s3_root)[0].pipe_file(f"{s3_root}/valley/a.mp4", b"x")
    forget()
    assert nearest_medium(s3_root, "valley/A.mp4") == "did you mean 'valley/a.mp4'?"
    assert nearest_medium(s3_root, "vale/a.mp4") == "no folder 'vale'"
