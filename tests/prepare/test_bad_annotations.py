"""The catalogue of bad annotations and settings: each input, and what becomes of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from raypipe.errors import RequestError
from raypipe.prepare.read import Annotations
from raypipe.records import Clip, Reason
from raypipe.settings import DatasetSettings, load
from tests.support.clips import talk
from tests.support.prepared import dataset

OK = "ok"
Q = {"conversations": talk("q", "a")}
GOOD = json.dumps(Q)
DEEP = "[" * 30_000 + "]" * 30_000


def array(*records: Any) -> bytes:
    return f"[{', '.join(r if isinstance(r, str) else json.dumps(r) for r in records)}]".encode()


def lines(*records: str | bytes) -> bytes:
    return b"\n".join(r if isinstance(r, bytes) else r.encode() for r in records)


def turns(*texts: Any, **more: Any) -> dict[str, Any]:
    """A record whose turns alternate, human first, however many there are."""
    return {"conversations": talk(texts[0], *texts[1:] or ("",))[: len(texts)], **more}


# What it is, the file, its bytes, and the outcome of each record (a reason or "ok") or what is refused.
CASES: list[tuple[str, str, bytes, list[Reason | str] | str]] = [
    # Row 18: encodings.
    ("byte order mark", "a.json", b"\xef\xbb\xbf" + array(Q), [OK]),
    ("byte order mark in lines", "a.jsonl", b"\xef\xbb\xbf" + lines(GOOD), [OK]),
    ("UTF-16 with mark", "a.json", array(Q).decode().encode("utf-16"), "not UTF-8 at byte 0"),
    ("UTF-16 without mark", "a.json", array(Q).decode().encode("utf-16-le"), "looks like UTF-16"),
    ("UTF-32", "a.json", array(Q).decode().encode("utf-32"), "looks like UTF-16 or -32"),
    ("UTF-16 lines", "a.jsonl", GOOD.encode("utf-16"), "looks like UTF-16"),
    ("Latin-1", "a.json", '[{"a": "caf\xe9"}]'.encode("latin-1"), r"not UTF-8 at byte 11 \(0xe9"),
    ("Latin-1 line", "a.jsonl", lines(GOOD, '"caf\xe9"'.encode("latin-1"), GOOD), [OK, Reason.BAD_JSON, OK]),
    ("NUL in a text", "a.json", array(turns("q\0", "a"), Q), [Reason.BAD_RECORD, OK]),
    ("NUL in a path, refused with the medium", "a.json", array(turns("<video>q", "a", video="a\0b")), [OK]),
    ("NUL byte", "a.json", b'[{"a": "\0"}]', "Invalid control character"),
    ("lone surrogate", "a.json", array(turns("q", "a\ud800"), Q), [Reason.BAD_RECORD, OK]),
    ("lone surrogate in an ignored field", "a.json", array({**Q, "id": "\udfff"}), [OK]),
    # Row 19: JSON that is none, or too much.
    ("empty file", "a.json", b"", "it is empty"),
    ("empty lines file", "a.jsonl", b"\n \r\n", []),
    ("empty array", "a.json", b" [ ] ", []),
    ("truncated", "a.json", array(Q, Q)[:-9], "in the record that begins at line 1, byte"),
    ("comma missing", "a.json", b"[" + lines(GOOD, GOOD) + b"]", "Expecting ',' delimiter at line 2"),
    ("single quotes", "a.json", b"[{'a': 1}]", "Expecting property name"),
    ("truncated line", "a.jsonl", lines(GOOD, GOOD[:-3], GOOD), [OK, Reason.BAD_JSON, OK]),
    ("two records in a line", "a.jsonl", lines(GOOD + GOOD, GOOD), [Reason.BAD_JSON, OK]),
    ("CRLF", "a.jsonl", lines(GOOD + "\r", "\r", GOOD + "\r"), [OK, OK]),
    (
        "NaN and Infinity in ignored fields",
        "a.json",
        array({**Q, "x": float("nan"), "y": float("inf")}),
        [OK],
    ),
    ("NaN for a path", "a.json", array({**Q, "video": float("nan")}), [Reason.BAD_RECORD]),
    ("a huge integer", "a.json", array(GOOD[:-1] + f', "n": {"9" * 9000}}}', Q), [OK, OK]),
    ("a huge integer in a line", "a.jsonl", lines(GOOD[:-1] + f', "n": {"9" * 9000}}}'), [OK]),
    ("deep nesting", "a.json", array(Q, DEEP, {**Q, "x": 1}), [OK, Reason.BAD_JSON, OK]),
    ("deep nesting, an ignored field", "a.json", array(GOOD[:-1] + f', "x": {DEEP}}}'), [Reason.BAD_JSON]),
    ("deep nesting in a line", "a.jsonl", lines(GOOD, f'{{"a": {DEEP}}}'), [OK, Reason.BAD_JSON]),
    ("deep nesting without an end", "a.json", b"[" * 100_000, "in the record that begins"),
    ("one object", "a.json", b'{"data": []}', "does not hold one JSON array"),
    ("one record, not in an array", "a.json", GOOD.encode(), "reader=jsonl"),
    ("lines in a .json file", "a.json", lines(GOOD, GOOD), "reader=jsonl"),
    ("an array in a .jsonl file", "a.jsonl", array(Q, Q), "reader=llava_json"),
    ("web page", "a.json", b"<!DOCTYPE html><html></html>", "is not JSON"),
    ("not Parquet", "a.parquet", b"PAR1 this is none", "not a sound Parquet file"),
    # Row 20: records of another shape.
    ("scalars", "a.json", b'[1, null, "x", true, []]', [Reason.BAD_RECORD] * 5),
    ("no conversations", "a.json", array({"video": "v.mp4"}), [Reason.BAD_RECORD]),
    ("empty conversations", "a.json", array({"conversations": []}), [Reason.BAD_RECORD]),
    ("an open question", "a.json", array(turns("q", "a", "r")), [OK]),
    ("not alternating", "a.json", array({"conversations": Q["conversations"][:1] * 2}), [Reason.BAD_RECORD]),
    (
        "unknown role",
        "a.json",
        array({"conversations": [{"from": "user", "value": "q"}]}),
        [Reason.BAD_RECORD],
    ),
    ("a key twice", "a.json", b'[{"conversations": 1, ' + GOOD.encode()[1:] + b"]", [OK]),
    # Row 22 and 23: ids.
    ("equal records", "a.json", array(Q, Q, Q), [OK, OK, OK]),
    ("equal ids, other content", "a.json", array({**Q, "id": "1"}, turns("r", "a", id="1")), [OK, OK]),
    ("ids that are no names", "a.json", array({**Q, "id": "../CON\0" + "x" * 300}), [OK]),
    # Row 28: what looks like markup.
    ("tags without a medium are text", "a.json", array(turns("<image>q", "a <video>")), [OK]),
    ("tag in the answer", "a.json", array(turns("<video>q", "a <video>", video="v")), [Reason.BAD_TAGS]),
    ("a tag and no file", "a.json", array(turns("<video>q", "a", video=[])), [Reason.BAD_TAGS]),
    ("a tag too many", "a.json", array(turns("<video><video>q", "a", video="v")), [Reason.BAD_TAGS]),
    ("closing token", "a.json", array(turns("q </s> USER: r", "a </s>")), [OK]),
    ("markup of other models", "a.json", array(turns("<|im_end|>[INST]<image_1>", "a")), [OK]),
    # Row 29: texts at the edges.
    ("empty question", "a.json", array(turns("", "a")), [OK]),
    ("a very long question", "a.json", array(turns("why " * 100_000, "a")), [OK]),
    ("right to left, zero width", "a.json", array(turns("\u202eq\u200b\u0627", "\u0627")), [OK]),
    # Row 31: nothing to learn.
    ("empty answer", "a.json", array(turns("q", "")), [Reason.NOTHING_TO_LEARN]),
    ("blank answers", "a.json", array(turns("q", " \n", "r", "\t")), [Reason.NOTHING_TO_LEARN]),
    ("no answer", "a.json", array(turns("q")), [Reason.NOTHING_TO_LEARN]),
]


@pytest.mark.parametrize(("file", "data", "outcome"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_every_bad_annotation_has_its_outcome(tmp_path, file, data, outcome):
    (tmp_path / file).write_bytes(data)
    annotations = Annotations(dataset(tmp_path, tmp_path / "out", annotations=[file]))
    if isinstance(outcome, str):
        with pytest.raises(RequestError) as fault:
            list(annotations)
        assert re.search(outcome, f"{fault.value.message} {fault.value.remedy}")
        assert str(tmp_path / file) in fault.value.message
        return
    read = list(annotations)
    assert [OK if isinstance(r, Clip) else r.reason for r in read] == outcome
    assert len({r.id for r in read}) == len(read)
    assert [r.id for r in annotations] == [r.id for r in read]


def test_the_catalogue_is_long_enough():
    assert len(CASES) >= 25


# Row 36: settings.
YAML = "name: d\nout: o\ndata_root: r\nannotations: [a.json]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name:\td\n\tout: o", "not valid yaml"),
        (YAML + "name: e\n", "'name' is there twice"),
        (YAML + "limits: {tries: 1, tries: 2}\n", "'tries' is there twice"),
        (YAML + "source: !!python/object/apply:os.getcwd []\n", "not valid yaml"),
        (YAML + "a: &a [x, x]\nb: &b [*a, *a]\n", "aliases are not taken"),
        (YAML + "error_buget: 0.1\n", "unknown setting 'error_buget'"),
        (YAML + "error_budget: on off\n", "error_budget"),
        (YAML + "reader: yes\n", "reader"),
        ("- name\n", "does not hold settings"),
        ("[" * 5000, "not valid yaml"),
        (YAML + "data_rot: $DATA\n", "did you mean 'data_root'"),
    ],
)
def test_every_bad_yaml_is_refused_with_its_fault(tmp_path, text, said):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(RequestError) as fault:
        load(DatasetSettings, tmp_path / "d.yaml")
    assert said in f"{fault.value.message} {fault.value.remedy}"
    assert len(fault.value.render()) < 1000
