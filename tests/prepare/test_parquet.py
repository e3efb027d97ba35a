"""Parquet annotations: what JSON gives, and nothing in a file that runs or crashes when it is read."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import RequestError
from raypipe.prepare.formats import Bad, Input
from raypipe.prepare.parquet import read_parquet
from raypipe.records import Reason
from tests.support.clips import talk

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
