"""Parquet files as streams of annotation records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.errors import RequestError, nearest
from raypipe.prepare.formats import Bad, Input, Record, content_name, parse_json
from raypipe.records import Reason

ROWS = 1024
MEDIA = ("image", "video")


def read_parquet(file: Input) -> Iterator[Record]:
    """The rows of a Parquet file; the place is the row's number from 0.

    Read are ``image`` and ``video`` (a path or a list of paths; null for none) and ``conversations``
    (a list of ``{from, value}``, or that as JSON text). The types are checked before any value is touched.

    Raises:
        RequestError: no Parquet file, a damaged one, or columns of other types.
    """
    try:
        source = pq.ParquetFile(file.handle, buffer_size=1 << 20, pre_buffer=False)
        columns = _columns(file, source.schema_arrow)
        place = 0
        for batch in source.iter_batches(ROWS, columns=columns, use_threads=False):
            for record in _rows(batch):
                yield place, record
                place += 1
    except (pa.ArrowException, OSError, OverflowError, UnicodeDecodeError) as fault:
        text = " ".join(str(fault).split())[:200]
        raise RequestError(f"{file.where} is not a sound Parquet file: {text}", "fetch it again") from None


def _columns(file: Input, schema: pa.Schema) -> list[str]:
    names = [n for n in (*MEDIA, "conversations") if n in schema.names]
    if "conversations" not in names:
        raise RequestError(
            f"{file.where} has no column 'conversations'", nearest("conversations", set(schema.names))
        )
    for name in names:
        kind = schema.field(name).type
        if name in MEDIA and _holds_bytes(kind):
            raise RequestError(
                f"{file.where}: the column '{name}' holds the media themselves ({kind}), not their paths",
                f"write them as files below data_root and their paths into '{name}'",
            )
        if not (_is_path(kind) if name in MEDIA else _is_talk(kind)):
            wanted = "a path or a list of paths" if name in MEDIA else "a list of {from, value}, or JSON text"
            raise RequestError(
                f"{file.where}: the column '{name}' is {kind}, not {wanted}",
                "write it anew in that form",
            )
    return names


def _holds_bytes(kind: pa.DataType) -> bool:
    if _is_list(kind):
        return _holds_bytes(kind.value_type)
    if isinstance(kind, pa.StructType):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _is_path(kind: pa.DataType) -> bool:
    return _is_text(kind) or (_is_list(kind) and _is_text(kind.value_type))


def _is_talk(kind: pa.DataType) -> bool:
    if _is_text(kind):
        return True
    if not _is_list(kind) or not isinstance(kind.value_type, pa.StructType):
        return False
    turn = kind.value_type
    fields = {turn.field(i).name: turn.field(i).type for i in range(turn.num_fields)}
    plain = all(_is_text(t) or pa.types.is_primitive(t) for t in fields.values())
    return plain and all(n in fields and _is_text(fields[n]) for n in ("from", "value"))


def _is_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.DictionaryType):
        return pa.types.is_integer(kind.index_type) and _is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _rows(batch: pa.RecordBatch) -> Iterator[Any]:
    try:
        batch.validate(full=True)
        rows = batch.to_pylist()
    except (pa.ArrowInvalid, UnicodeDecodeError):  # one bad text is one bad record
        for at in range(batch.num_rows):
            yield _row(batch.slice(at, 1))
        return
    for row in rows:
        yield _record(row)


def _row(row: pa.RecordBatch) -> Any:
    # Built anew, because a slice is validated with the whole of what it was cut from.
    alone = pa.RecordBatch.from_arrays([pa.concat_arrays([c]) for c in row.columns], schema=row.schema)
    try:
        alone.validate(full=True)
        return _record(alone.to_pylist()[0])
    except (pa.ArrowInvalid, UnicodeDecodeError) as fault:
        detail = f"a text that is not UTF-8: {' '.join(str(fault).split())[:160]}"
        return Bad(Reason.BAD_RECORD, detail, content_name(_bytes_of(alone)))


def _bytes_of(row: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as writer:
        writer.write_batch(row)
    return sink.getvalue().to_pybytes()


def _record(row: dict[str, Any]) -> Any:
    talk = row["conversations"]
    if isinstance(talk, str):
        try:
            talk = parse_json(talk)
        except json.JSONDecodeError as fault:
            detail = f"'conversations' is not JSON: {fault.msg} at column {fault.colno}"
            return Bad(Reason.BAD_JSON, detail, content_name(json.dumps(row, sort_keys=True)))
        if isinstance(talk, Bad):
            return talk
    return {**{k: v for k, v in row.items() if v is not None}, "conversations": talk}
