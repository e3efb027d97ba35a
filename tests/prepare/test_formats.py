"""Annotation files as streams: the same records as a plain reader gives, whatever the size of the pieces."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import RequestError
from raypipe.prepare.formats import MAX_DEPTH, Bad, Input, read_array, read_lines, read_video_chatgpt
from raypipe.prepare.near import forget, nearest_medium
from raypipe.prepare.parquet import read_parquet
from raypipe.prepare.read import Annotations
from raypipe.prepare.seen import NAME_BYTES, Seen
from raypipe.records import Clip, Reason, Rejection
from tests.support.clips import talk, write_annotations
from tests.support.prepared import dataset


def source(data: bytes, piece: int = 7, **more: Any) -> Input:
    return Input("a.json", "/a.json", io.BytesIO(data), piece_bytes=piece, **more)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=6), st.integers(1, 40), st.booleans(), st.sampled_from([None, 0, 3]))
@settings(max_examples=400, deadline=None)
def test_an_array_reads_as_json_reads_it(records, piece, ascii_only, indent):
    text = json.dumps(records, ensure_ascii=ascii_only, indent=indent)
    data = ("\ufeff" + text if piece % 2 else text).encode(errors="replace")
    got = list(read_array(source(data, piece)))
    assert got == list(enumerate(json.loads(data.decode("utf-8-sig"))))


@given(st.lists(JSON, max_size=6), st.integers(1, 40), st.sampled_from(["\n", "\r\n", "\n\n", " \n"]))
@settings(max_examples=200, deadline=None)
def test_lines_read_as_json_reads_them(records, piece, end):
    data = end.join(json.dumps(r) for r in ["first", *records]).encode()
    numbers = [n for n, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    assert list(read_lines(source(data, piece))) == list(zip(numbers, ["first", *records], strict=True))


@given(st.lists(JSON, min_size=1, max_size=4), st.integers(1, 30), st.data())
@settings(max_examples=300, deadline=None)
def test_a_truncated_array_is_refused_and_never_more_than_it_holds(records, piece, data):
    whole = json.dumps(records, ensure_ascii=False).encode(errors="replace")
    cut = data.draw(st.integers(0, len(whole) - 1))
    got = []
    with pytest.raises(RequestError, match="is not JSON"):
        got.extend(record for _, record in read_array(source(whole[:cut], piece)))
    assert got == json.loads(whole)[: len(got)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'[{"a": 1},\n{"a": }]', "Expecting value at line 2, byte 17"),
        (b'[{"a": 1}\n{"a": 2}]', "Expecting ',' delimiter at line 2, byte 10"),
        ('["é",\n"é" x]'.encode(), "Expecting ',' delimiter at line 2, byte 12"),
        (b'[1,\n{"a": "b', "in the record that begins at line 2, byte 4"),
        (b"[1, 2", "ends before the array does at line 1, byte 5"),
        (b"[1] 2", "something follows the array at line 1, byte 4"),
        (b"[1, ]", "Expecting value at line 1, byte 4"),
        (b'["a\nb"]', "Invalid control character at line 1, byte 3"),
        ("[1,\n'é']".encode("latin-1"), r"not UTF-8 at byte 5 \(0xe9"),
        (b'["' + b"x" * 50 + b'\xe2\x82"]', r"not UTF-8 at byte 52 \(0xe2"),
        (b'["\xe2\x82', r"not UTF-8 at byte 2 \(0xe2"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_the_place_of_a_fault_is_told(data, said, piece):
    with pytest.raises(RequestError, match=said):
        list(read_array(source(data, piece)))


@pytest.mark.parametrize("piece", [1, 13, 1 << 20])
def test_a_record_that_is_nested_too_deep_is_bad_and_the_next_ones_are_read(piece):
    deep = "[" * 5000 + '"]{"' + "]" * 5000
    just = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    data = f'[{{"a": {deep}}}, {just}, [{just}], {{"b": "{"[" * 200}"}}]'.encode()
    first, second, third, last = [r for _, r in read_array(source(data, piece))]
    assert isinstance(first, Bad)
    assert first.reason is Reason.BAD_JSON
    assert not isinstance(second, Bad)
    assert isinstance(third, Bad)
    assert last == {"b": "[" * 200}
    lines = [r for _, r in read_lines(source(f'{{"a": {deep}}}\n{{"b": 1}}\n'.encode(), piece))]
    assert isinstance(lines[0], Bad)
    assert lines[0].digest == first.digest
    assert lines[1] == {"b": 1}


def test_a_record_over_the_limit_is_refused_with_its_place():
    data = b'[1,\n"' + b"x" * 5000 + b'"]'
    with pytest.raises(RequestError, match=r"a record is longer than .* line 2, byte 4"):
        list(read_array(source(data, 100, max_record=1000)))
    assert len(list(read_array(source(data, 100, max_record=6000)))) == 2


def test_a_line_over_the_limit_is_bad_and_named_by_its_content():
    data = b'{"a": 1}\n' + b"x" * 5000 + b'\n{"b": 2}\n' + b"x" * 4999 + b"y"
    whole = list(read_lines(source(data, 100, max_record=1000)))
    assert [n for n, _ in whole] == [1, 2, 3, 4]
    assert [isinstance(r, Bad) for _, r in whole] == [False, True, False, True]
    assert "5000 bytes" in whole[1][1].detail
    assert whole[1][1].digest != whole[3][1].digest
    assert whole == list(read_lines(source(data, 33, max_record=1000)))


def test_lines_end_with_newline_only():
    text = json.dumps({"a": "x\u2028y\x85z"}, ensure_ascii=False)
    assert [r for _, r in read_lines(source(f"{text}\r\n".encode()))] == [{"a": "x\u2028y\x85z"}]


def test_bytes_are_hashed_as_they_are_read():
    data = b'[{"a": 1}, 2]  \n'
    for reader in (read_array, lambda f: read_lines(f)):
        file = source(data if reader is read_array else b"1\n2", digest=hashlib.sha256())
        list(reader(file))
        assert file.digest.hexdigest() == hashlib.sha256(file.handle.getvalue()).hexdigest()


RAW = [
    {"video_id": "v_1", "q": "What moves?", "a": "A bar."},
    {"video_id": "v_2", "q": "What moves?\n<video>", "a": "A bar."},
    {"video_id": "v_2", "q": "<video>\nWhat moves?", "a": "A bar.", "more": 1},
]


def test_raw_instructions_become_conversations():
    records = [r for _, r in read_video_chatgpt(source(json.dumps(RAW).encode()), "clips/{video_id}.mp4")]
    assert [r["video"] for r in records] == ["clips/v_1.mp4", "clips/v_2.mp4", "clips/v_2.mp4"]
    assert {json.dumps(r["conversations"]) for r in records} == {
        json.dumps(talk("<video>\nWhat moves?", "A bar."))
    }


def test_a_video_id_is_text_and_never_a_format():
    raw = [{"video_id": "{0.__class__}{video_id}", "q": "q", "a": "a"}]
    ((_, record),) = read_video_chatgpt(source(json.dumps(raw).encode()), "{other}/{video_id}.mp4")
    assert record["video"] == "{other}/{0.__class__}{video_id}.mp4"


@pytest.mark.parametrize("broken", [5, {}, {"video_id": "v"}, {"video_id": 5, "q": "q", "a": "a"}])
def test_a_raw_instruction_without_its_fields_is_bad(broken):
    ((_, record),) = read_video_chatgpt(source(json.dumps([broken]).encode()), "{video_id}.mp4")
    assert isinstance(record, Bad)
    assert record.reason is Reason.BAD_RECORD


TALK = talk("<video>\nq", "a")
STRUCT = pa.list_(pa.struct([("from", pa.string()), ("value", pa.large_string())]))


def parquet(table: pa.Table, **options: Any) -> Input:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    sink.seek(0)
    return Input("a.parquet", "/a.parquet", sink)


@pytest.mark.parametrize(
    ("videos", "kind"),
    [
        (["v.mp4", None], pa.string()),
        ([["v.mp4"], None], pa.list_(pa.string())),
        (["v.mp4", None], pa.dictionary(pa.int32(), pa.string())),
    ],
)
@pytest.mark.parametrize("spelled", [False, True])
def test_parquet_gives_what_json_gives(videos, kind, spelled):
    talks = [TALK, talk("q", "a")]
    texts = [json.dumps(t) for t in talks]
    columns = {
        "video": pa.array(videos, kind),
        "image": pa.nulls(2),
        "conversations": pa.array(texts) if spelled else pa.array(talks, STRUCT),
        "blob": pa.array([b"x", b"y"]),
    }
    records = list(read_parquet(parquet(pa.table(columns))))
    assert records == [(0, {"video": videos[0], "conversations": TALK}), (1, {"conversations": talks[1]})]


def test_parquet_is_read_a_batch_at_a_time_and_numbered_through():
    table = pa.table({"conversations": pa.array([talk(f"q{n}", "a") for n in range(3000)], STRUCT)})
    records = list(read_parquet(parquet(table, row_group_size=700)))
    assert [n for n, _ in records] == list(range(3000))
    assert [r["conversations"][0]["value"] for _, r in records] == [f"q{n}" for n in range(3000)]


BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"image": pa.array([{"bytes": b"x", "path": "p"}], BYTES)}, "holds the media themselves"),
        ({"image": pa.array([b"x"])}, "holds the media themselves"),
        (
            {"image": pa.array([[{"bytes": b"x", "path": "p"}]], pa.list_(BYTES))},
            "holds the media themselves",
        ),
        ({"video": pa.array([5])}, "not a path or a list of paths"),
        ({"conversations": pa.array([5])}, "not a list of"),
        ({"conversations": pa.array([["q"]])}, "not a list of"),
        ({"conversations": pa.array([[{"role": "a", "value": "b"}]])}, "not a list of"),
        ({"conversations": None, "talk": pa.array(["q"])}, "no column 'conversations'"),
    ],
)
def test_parquet_columns_of_other_types_are_refused(table, said):
    columns = {"conversations": pa.array(["[]"]), **table}
    with pytest.raises(RequestError, match=said):
        list(read_parquet(parquet(pa.table({k: v for k, v in columns.items() if v is not None}))))


class Loud(pa.ExtensionType):
    """An extension type that would run code of its own if it were ever read."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "test.loud")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Loud:
        return cls()


def test_parquet_extension_types_are_refused():
    storage = pa.array(["[]"])
    pa.register_extension_type(Loud())
    try:
        file = parquet(pa.table({"conversations": pa.ExtensionArray.from_storage(Loud(), storage)}))
        with pytest.raises(RequestError, match="not a list of"):
            list(read_parquet(file))
    finally:
        pa.unregister_extension_type("test.loud")


def test_one_text_that_is_no_utf8_costs_parquet_one_record():
    bad = pa.array([b"v.mp4", b"\xff.mp4", b"w.mp4"]).view(pa.string())
    table = pa.table({"video": bad, "conversations": pa.array([TALK] * 3, STRUCT)})
    records = [r for _, r in read_parquet(parquet(table))]
    assert [isinstance(r, Bad) for r in records] == [False, True, False]
    assert records[1].reason is Reason.BAD_RECORD


def test_damaged_parquet_is_refused():
    whole = parquet(pa.table({"conversations": pa.array([TALK] * 500, STRUCT)})).handle.getvalue()
    refused = 0
    for at in range(0, len(whole), 7):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            try:
                list(read_parquet(Input("a", "/a", io.BytesIO(damaged))))
            except RequestError:
                refused += 1
    assert refused > len(whole) // 7  # a cut file always, a flipped byte mostly


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
    fs.pipe_file(f"{s3_root}/pt/c.parquet", parquet(table).handle.getvalue())
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
@settings(max_examples=100, deadline=None)
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
