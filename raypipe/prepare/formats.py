"""Annotation files as streams of records: one JSON array however large, JSON lines, Video-ChatGPT's raw file.

A reader yields (place, record): the place is the position in an array or the number of a line, the record
plain data or ``Bad``. Memory is that of the longest record, not of the file.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, BinaryIO, NoReturn

from raypipe.errors import RequestError
from raypipe.records import MediumKind, Reason
from raypipe.text.chat import TAGS

PIECE_BYTES = 1 << 20
MAX_RECORD_BYTES = 64 << 20  # no conversation is as long; a file without line ends or closing quotes is
MAX_DEPTH = 100  # a fixed limit: what Python itself can take depends on who calls
NEAR_END = 32  # characters: what JSON says so close to the end of what was read may change with what follows


@dataclass(frozen=True)
class Bad:
    """A record that cannot be read: why, and a short name of its content."""

    reason: Reason
    detail: str
    digest: str


@dataclass
class Input:
    """An open annotation file: its name, where it lies, its bytes; ``digest`` is fed with what is read."""

    name: str
    where: str
    handle: BinaryIO
    digest: Any = None
    max_record: int = MAX_RECORD_BYTES
    piece_bytes: int = PIECE_BYTES
    read_bytes: int = field(default=0, init=False)

    def read(self, size: int) -> bytes:
        """The next bytes, at most so many; none at the end."""
        data = self.handle.read(size)
        if self.digest is not None:
            self.digest.update(data)
        self.read_bytes += len(data)
        return data


Record = tuple[int, Any]


def read_array(file: Input) -> Iterator[Record]:
    """The records of one JSON array.

    Raises:
        RequestError: not JSON, not UTF-8, no array, or a record over the limit; with line and byte.
    """
    text = _Text(file)
    if text.peek() != "[":
        text.no_array()
    text.at += 1
    if text.peek() == "]":
        text.at += 1
    else:
        mark, place = ",", 0
        while mark == ",":
            text.peek()
            record = text.record()
            mark = text.peek()
            if mark not in (",", "]"):
                text.fail("Expecting ',' delimiter" if mark else ENDED)
            text.at += 1
            yield place, record
            place += 1
    if text.peek():
        text.fail("something follows the array")


def read_lines(file: Input) -> Iterator[Record]:
    r"""The records of a file that holds one on each line; a line ends with ``\n`` only. Blank lines are none.

    Raises:
        RequestError: the file is in UTF-16 or UTF-32, or holds one JSON array.
    """
    start = 0
    for number, (line, digest, size) in enumerate(_lines(file), 1):
        if number == 1 and line is not None:
            _refuse_wide(file, line)
            line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip().startswith(b"[") and not line.strip().startswith(b"[]"):
                raise RequestError(
                    f"{file.where} holds one JSON array, not one record a line",
                    "read it with reader=llava_json",
                )
        if line is None:
            limit = f"longer than {file.max_record >> 20} MiB"
            yield number, Bad(Reason.BAD_JSON, f"{limit} ({size} bytes)", digest)
        elif line.strip():
            yield number, _parse_line(line, start)
        start += size + 1


def read_video_chatgpt(file: Input, media_path: str) -> Iterator[Record]:
    """Video-ChatGPT's raw instructions, as records of LLaVA's format.

    The file is a JSON array of ``{"video_id", "q", "a"}``. The tag stands before the question, as in
    Video-LLaVA's own copy of these data.
    """
    for place, record in read_array(file):
        yield place, record if isinstance(record, Bad) else _as_conversation(record, media_path)


def parse_json(text: str) -> Any:
    """One JSON value, or why it is none. Integers of any length are taken; deep nesting is not.

    Raises:
        json.JSONDecodeError: not JSON.
    """
    try:
        value = _PLAIN.decode(text)
    except RecursionError:
        return _too_deep(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        value = _HUGE.decode(text)
    return _too_deep(text) if _deep(text, 0, len(text)) else value


def content_name(data: bytes | str) -> str:
    """A short name of raw content, for a record that has no other."""
    raw = data if isinstance(data, bytes) else data.encode(errors="surrogatepass")
    return blake2b(raw, digest_size=12).hexdigest()


ENDED = "it ends before the array does"
_SPACE = re.compile(r"[ \t\n\r]*")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+(?P<close>"?)|[\[\]{}]', re.DOTALL)
_PLAIN = json.JSONDecoder()
# Python refuses to convert integers of more than 4300 digits; in a field that nobody reads they do no harm.
_HUGE = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < 4000 else float(digits))


class _Text:
    """The text of a file, a piece at a time: what was read but not yet used, and how far it is used."""

    def __init__(self, file: Input) -> None:
        self.file, self.buffer, self.at = file, "", 0
        self._lines = 0  # before the buffer
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def more(self) -> bool:
        """Reads on, as much again as is waiting; False at the end of the file."""
        waiting = len(self.buffer) - self.at
        before = self.file.read_bytes - len(self._decoder.getstate()[0])
        data = self.file.read(max(self.file.piece_bytes, waiting))
        if before == 0:
            _refuse_wide(self.file, data)
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as fault:
            raise RequestError(
                f"{self.file.where} is not JSON: not UTF-8 at byte {before + fault.start} "
                f"(0x{fault.object[fault.start]:02x}, {fault.reason})",
                "write it in UTF-8, for example: iconv -f LATIN1 -t UTF-8",
            ) from None
        if not data:
            return False
        if before == 0:
            text = text.removeprefix("\ufeff")
        self._lines += self.buffer.count("\n", 0, self.at)
        self.buffer, self.at = self.buffer[self.at :] + text, 0
        return True

    def peek(self) -> str:
        """The next character that is no space; nothing at the end of the file."""
        while True:
            self.at = _SPACE.match(self.buffer, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""

    def record(self) -> Any:
        """The value that stands next, or ``Bad`` where it is nested too deep; moves behind it."""
        decoder = _PLAIN
        while True:
            try:
                value, end = decoder.raw_decode(self.buffer, self.at)
            except RecursionError:
                return self._skip()
            except json.JSONDecodeError as fault:
                self._need_more(fault.msg, fault.pos)
                continue
            except ValueError:
                decoder = _HUGE
                continue
            # A number at the end may be half of one, and a literal is followed by something.
            if (
                not isinstance(value, dict | list | str)
                and end >= len(self.buffer) - NEAR_END
                and self.more()
            ):
                continue
            self._refuse_long(end)
            if _deep(self.buffer, self.at, end):
                value = _too_deep(self.buffer[self.at : end])
            self.at = end
            return value

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        """Raises what is wrong, with line and byte."""
        at = self.at if at is None else at
        line = self._lines + self.buffer.count("\n", 0, at) + 1
        rest = len(self.buffer[at:].encode(errors="surrogatepass")) + len(self._decoder.getstate()[0])
        place = f"line {line}, byte {self.file.read_bytes - rest}"
        raise RequestError(
            f"{self.file.where} is not JSON: {message.removesuffix(' at')} at {place}",
            "repair the file, or fetch it again",
        )

    def no_array(self) -> NoReturn:
        """Raises that this is no array, and what it is as far as that can be told."""
        if not self.peek():
            self.fail("it is empty")
        value = self.record()
        where = self.file.where
        if isinstance(value, dict) and (self.peek() == "{" or "conversations" in value):
            raise RequestError(
                f"{where} holds one record a line, not one JSON array of records", "read it with reader=jsonl"
            )
        raise RequestError(
            f"{where} does not hold one JSON array of records",
            "the reader of the dataset says which form is read: docs/prepare.md",
        )

    def _need_more(self, message: str, at: int) -> None:
        """Reads on where a record is not whole yet; raises where it never will be."""
        unclosed = message.startswith("Unterminated string")
        if not unclosed and at < len(self.buffer) - NEAR_END:
            self.fail(message, at)
        self._refuse_long(len(self.buffer))
        if self.more():
            return
        if unclosed or at >= len(self.buffer):
            self.fail(f"{ENDED}, in the record that begins")
        self.fail(message, at)

    def _refuse_long(self, end: int) -> None:
        if end - self.at > self.file.max_record:
            self.fail(f"a record is longer than {self.file.max_record >> 20} MiB; it begins")

    def _skip(self) -> Bad:
        """Moves behind a value that is nested deeper than Python can follow."""
        while True:
            end = _end_of_value(self.buffer, self.at)
            if end is not None:
                raw, self.at = self.buffer[self.at : end], end
                return _too_deep(raw)
            self._refuse_long(len(self.buffer))
            if not self.more():
                self.fail(f"{ENDED}, in the record that begins")


def _end_of_value(text: str, start: int) -> int | None:
    """Where the list or object that begins at ``start`` ends; None when the text ends first."""
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        mark = found[0]
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
            if not depth:
                return found.end()
        elif not found["close"]:
            return None
    return None


def _deep(text: str, start: int, end: int) -> bool:
    if text.count("[", start, end) + text.count("{", start, end) <= MAX_DEPTH:
        return False
    depth = 0
    for found in _BRACKETS.finditer(text, start, end):
        depth += 1 if found[0] in "[{" else -1 if found[0] in "]}" else 0
        if depth > MAX_DEPTH:
            return True
    return False


def _too_deep(raw: str) -> Bad:
    return Bad(Reason.BAD_JSON, f"nested more than {MAX_DEPTH} levels deep", content_name(raw))


def _refuse_wide(file: Input, start: bytes) -> None:
    """UTF-16 and UTF-32 have a mark at their beginning or a zero byte in each character of JSON's own."""
    wide = start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in start[:4]
    if wide:
        raise RequestError(
            f"{file.where} is not JSON: not UTF-8 at byte 0 (0x{start[0]:02x}); it looks like UTF-16 or -32",
            "write it in UTF-8, for example: iconv -f UTF-16 -t UTF-8",
        )


def _parse_line(line: bytes, start: int) -> Any:
    try:
        return parse_json(line.decode())
    except UnicodeDecodeError as fault:
        place = f"byte {start + fault.start} of the file"
        detail = f"not UTF-8 at {place} (0x{line[fault.start]:02x}, {fault.reason})"
    except json.JSONDecodeError as fault:
        detail = f"not JSON: {fault.msg} at column {fault.colno}"
    return Bad(Reason.BAD_JSON, detail, content_name(line))


class _Line:
    """A line as it comes in. Over the limit only its size and its content name are kept."""

    def __init__(self, limit: int) -> None:
        self._limit, self._parts, self._digest = limit, [b""], blake2b(digest_size=12)
        self.size = 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        self._parts.append(part)
        if self.size > self._limit:
            for dropped in self._parts:
                self._digest.update(dropped)
            self._parts.clear()

    def take(self) -> tuple[bytes | None, str, int]:
        whole = self.size <= self._limit
        return (
            b"".join(self._parts) if whole else None,
            "" if whole else self._digest.hexdigest(),
            self.size,
        )


def _lines(file: Input) -> Iterator[tuple[bytes | None, str, int]]:
    """Each line without its end, or None where it is over the limit; then its content name, and its bytes."""
    line = _Line(file.max_record)
    while piece := file.read(file.piece_bytes):
        first, *others = piece.split(b"\n")
        line.add(first)
        for other in others:
            yield line.take()
            line = _Line(file.max_record)
            line.add(other)
    if line.size:
        yield line.take()


def _as_conversation(record: Any, media_path: str) -> Any:
    faults = [
        k
        for k in ("video_id", "q", "a")
        if not isinstance(record, dict) or not isinstance(record.get(k), str)
    ]
    if faults:
        raw = json.dumps(record, sort_keys=True, default=str)
        return Bad(Reason.BAD_RECORD, f"'{faults[0]}' is not a text", content_name(raw))
    tag = next(t for t, kind in TAGS.items() if kind is MediumKind.VIDEO)
    question = " ".join(part.strip() for part in record["q"].split(tag) if part.strip())
    return {
        "video": media_path.replace("{video_id}", record["video_id"]),
        "conversations": [
            {"from": "human", "value": f"{tag}\n{question}"},
            {"from": "gpt", "value": record["a"]},
        ],
    }
