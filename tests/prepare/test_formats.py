"""Annotation files as streams: the same records as a plain reader gives, whatever the size of the pieces."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import RequestError
from raypipe.prepare.formats import MAX_DEPTH, Bad, Input, read_array, read_lines, read_video_chatgpt
from raypipe.records import Reason
from tests.support.clips import talk


def source(data: bytes, piece: int = 7, **more: Any) -> Input:
    return Input("a.json", "/a.json", io.BytesIO(data), piece_bytes=piece, **more)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=6), st.integers(1, 40), st.booleans(), st.sampled_from([None, 0, 3]))
@settings(max_examples=400)
def test_an_array_reads_as_json_reads_it(records, piece, ascii_only, indent):
    text = json.dumps(records, ensure_ascii=ascii_only, indent=indent)
    data = ("\ufeff" + text if piece % 2 else text).encode(errors="replace")
    got = list(read_array(source(data, piece)))
    assert got == list(enumerate(json.loads(data.decode("utf-8-sig"))))


@given(st.lists(JSON, max_size=6), st.integers(1, 40), st.sampled_from(["\n", "\r\n", "\n\n", " \n"]))
@settings(max_examples=200)
def test_lines_read_as_json_reads_them(records, piece, end):
    data = end.join(json.dumps(r) for r in ["first", *records]).encode()
    numbers = [n for n, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    assert list(read_lines(source(data, piece))) == list(zip(numbers, ["first", *records], strict=True))


@given(st.lists(JSON, min_size=1, max_size=4), st.integers(1, 30), st.data())
@settings(max_examples=300)
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
