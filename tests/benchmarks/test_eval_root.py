"""Other people's files: whatever is wrong with one, the answer is rows or an error with file and line."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe import eval_root
from raypipe.errors import RequestError
from raypipe.eval_root import (
    field,
    first_present,
    medium_path,
    read_json,
    read_json_lines,
    read_json_rows,
)

GOOD = "".join(
    json.dumps({"question_id": i, "image": f"{i}.jpg", "text": f"Is thère a {i}?", "box": [0.5, -1e3, None]})
    + "\n"
    for i in range(6)
).encode()
# What a line may hold that a reader of JSON is easily caught by.
HOSTILE: dict[str, tuple[str, str]] = {
    "cut": ('{"question_id": 1', "Expecting ',' delimiter"),
    "constant": ('{"text": "NaN", "score": NaN}', "NaN is not a JSON value"),
    "infinity": ('{"score": [1, -Infinity]}', "-Infinity is not a JSON value"),
    "overflow": ('{"score": 1e999}', "the number 1e999 is too large"),
    "digits": ('{"question_id": ' + "9" * 5000 + "}", "a number with too many digits"),
    "nested": ('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    "unclosed": ("[" * 100_000, "nested too deeply"),
    "half a character": ('{"text": "\\ud800"}', "half a character"),
    "array": ("[1, 2]", "not an object"),
    "number": ("7", "not an object"),
    "text": ('"a"', "not an object"),
    "binary": ("\0\1\2", "Expecting value"),
}


def lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    return list(read_json_lines(path))


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_line_is_refused_with_file_and_line(tmp_path, what):
    line, message = HOSTILE[what]
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n' + line + '\n{"a": 2}\n')
    with pytest.raises(RequestError) as fault:
        lines(path)
    assert fault.value.message.startswith(f"{path}, line 3: ")
    assert message in fault.value.message
    assert fault.value.remedy
    assert len(fault.value.message) < 500


@pytest.mark.parametrize("what", [w for w in HOSTILE if w not in ("array", "number", "text", "binary")])
def test_a_hostile_file_is_refused_with_file_and_line(tmp_path, what):
    line, message = HOSTILE[what]
    path = tmp_path / "rows.json"
    path.write_text('[{"a": "[[{\\"1e999"},\n\n' + line + ("]" if what == "half a character" else ""))
    with pytest.raises(RequestError) as fault:
        read_json(path)
    assert fault.value.message.startswith(f"{path}, line 3: ")
    assert message in fault.value.message


def test_half_a_character_is_told_from_a_whole_one_and_from_text_about_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "\\ud83d\\ude00"}\n{"text": "\\\\ud800"}\n')
    assert [row["text"] for _, row in lines(path)] == ["\U0001f600", "\\ud800"]


@pytest.mark.parametrize("content", ["{}", "7", '{"a": []}', "null"])
def test_something_else_than_rows_is_refused(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(RequestError, match="does not hold an array of rows"):
        read_json_rows(path)
    path.write_text(f"[{{}}, {content if content[0] != '{' else 3}]")
    with pytest.raises(RequestError, match="row 2: not an object"):
        read_json_rows(path)


def test_not_utf8_is_named_with_its_line(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": 1},\n{"a": "\xff"}]')
    with pytest.raises(RequestError, match="line 2: not UTF-8"):
        read_json(path)
    path.write_bytes('{"a": 1}\n'.encode("utf-16"))
    with pytest.raises(RequestError, match="line 1: not UTF-8"):
        lines(path)


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert lines(path) == [(1, {"a": 1}), (3, {"a": 2})]
    path.write_bytes(b'\xef\xbb\xbf[{"a": 1}]\r\n')
    assert read_json_rows(path) == [{"a": 1}]
    path.write_bytes(b"")
    assert lines(path) == []


@pytest.mark.parametrize("read", [read_json, read_json_rows, lines])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(RequestError, match="not a plain file"):
            read(path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RequestError, match=r"cannot read .*loop"):
        read(tmp_path / "loop")
    with pytest.raises(RequestError, match="no such file"):
        read(tmp_path / "none" / "none.json")
    (tmp_path / "file").write_text("[]")
    with pytest.raises(RequestError, match="cannot read"):
        read(tmp_path / "file" / "below.json")
    with pytest.raises(RequestError, match="not a file's name"):
        read(tmp_path / "a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("[]")
    path.chmod(stat.S_IWUSR)
    with pytest.raises(RequestError, match="Permission denied"):
        read_json(path)


def test_a_giant_line_is_refused_before_it_is_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n{"a": "')
        file.truncate(10 << 30)  # a hole: ten GiB that take no place
    handle, opened = os.open(path, os.O_RDONLY), os.open
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda name, *how: os.dup(handle) if name == path else opened(name, *how))
        with pytest.raises(RequestError, match="line 2: longer than 64 MiB"):
            lines(path)
    assert 64 << 20 < os.lseek(handle, 0, os.SEEK_CUR) < 66 << 20  # read so far: a copy has the same place
    os.close(handle)
    monkeypatch.setattr(eval_root, "MAX_FILE", 1 << 20)
    with pytest.raises(RequestError, match="is larger than"):
        read_json(path)
    path.write_bytes(b'{"a": "%s"}\n' % (b"x" * 1000) * 1100)
    with pytest.raises(RequestError, match="is larger than"):
        lines(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("damage") / "rows"


DAMAGE = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [b"NaN", b"\xed\xa0\x80", b"\\ud800", b'"', b"[" * 3000, b"9" * 5000, b"\n", b"1e400", b"\0"]
    ),
)


@given(at=st.integers(0, len(GOOD)), drop=st.integers(0, 40), put=DAMAGE)
def test_random_damage_gives_rows_or_an_error_with_the_file(place, at, drop, put):
    place.write_bytes(GOOD[:at] + put + GOOD[at + drop :])
    for read in (lines, read_json):
        try:
            found = read(place)
        except RequestError as fault:
            assert str(place) in fault.message  # noqa: PT017 - either is right
        else:
            json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


@given(st.binary(max_size=200))
def test_random_bytes_give_rows_or_an_error_with_the_file(place, data):
    place.write_bytes(data)
    try:
        rows = lines(place)
    except RequestError as fault:
        assert str(place) in fault.message  # noqa: PT017 - either is right
    else:
        assert all(isinstance(row, dict) for _, row in rows)


@given(st.lists(st.dictionaries(st.text(), st.none() | st.integers() | st.text()), max_size=5))
def test_what_is_good_comes_back(place, rows):
    place.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    assert [row for _, row in lines(place)] == rows
    place.write_text(json.dumps(rows))
    assert read_json_rows(place) == rows


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a.jpg", "a/../../b", "a\\b", "a\0b", ".", "x/.."])
def test_a_medium_that_leads_out_is_refused(name):
    with pytest.raises(RequestError, match="not a name inside pope/val2014"):
        medium_path("pope/val2014", name, Path("q.jsonl"), "line 1")


@given(st.text())
def test_a_medium_is_inside_its_folder_or_refused(name):
    try:
        path = medium_path("a/b", name, Path("q.jsonl"), "line 1")
    except RequestError:
        return
    assert os.path.normpath(path).startswith("a/b/")


@pytest.mark.parametrize("value", [True, None, [], {}, [[1]]])
def test_a_field_of_another_type_is_refused(value):
    with pytest.raises(RequestError, match="line 4: field 'text' is not text"):
        field({"text": value}, "text", Path("q.jsonl"), "line 4")
    with pytest.raises(RequestError, match="field 'text' is missing"):
        field({}, "text", Path("q.jsonl"), "line 4")


def test_first_present_takes_no_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("x")
    assert first_present(tmp_path, "a", "b") == tmp_path / "b"
    assert first_present(tmp_path, "a", "c") == tmp_path / "a"


def test_as_many_rows_as_the_largest_question_file_are_read_fast(place):
    place.write_bytes(GOOD * 1485)
    best = 9.0
    for _ in range(3):
        started = time.process_time()
        assert len(lines(place)) == 8910
        best = min(best, time.process_time() - started)
    assert best < 0.2
