"""Reading the files below an eval root: annotations, answer files, and names of media.

Annotations are other people's files. A missing or damaged one is refused with its name and line, and
a medium's name may not lead out of the folder it belongs to. Nothing but a plain file is opened, and
no more is read of it than ``MAX_FILE`` bytes, in lines of at most ``MAX_LINE``.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from raypipe.errors import RequestError
from raypipe.eval_mirror import fetched

Row = dict[str, Any]

MAX_LINE = 64 << 20  # bytes; far above any real row, pictures in base64 included
MAX_FILE = 1 << 30  # bytes; the largest real annotation file has about a tenth
BOM = b"\xef\xbb\xbf"
SHOWN = 120  # characters of somebody else's text in a message
FETCH_AGAIN = "the file is damaged; fetch it again"
# What may fail without a position: a string, which hides the rest, a constant, a number, a bracket.
TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|NaN|-?Infinity|-?\d[\d.eE+-]*|[\[{]|[\]}]')
# A whole pair, an escaped backslash, or (the group) half of a pair.
SURROGATE = re.compile(r"\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|\\\\|(\\u[dD][89a-fA-F]\w\w)")


class _Refused(ValueError):
    """JSON that Python would take, or would choke on."""


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refused(f"the number {text[:SHOWN]} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RequestError: missing, no plain file, unreadable, too large, or not JSON (with the line).
    """
    with _opened(path) as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise _too_large(path)
    return _parsed(_decoded(data, path, 1), path, 1)


def read_json_rows(path: Path) -> list[Row]:
    """The objects of a JSON file that holds an array of them.

    Raises:
        RequestError: as ``read_json``, or something else than an array of objects.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise RequestError(f"{path} does not hold an array of rows", FETCH_AGAIN)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise RequestError(f"{path}, row {number}: not an object", FETCH_AGAIN)
    return rows


def read_json_objects(path: Path) -> dict[str, Row]:
    """The content of a JSON file that holds an object of objects, by id.

    Raises:
        RequestError: as ``read_json``, or something else.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise RequestError(f"{path} does not hold one object a question id", FETCH_AGAIN)
    return content


def read_json_list(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    """Where it stands, and each object of the list that a JSON file holds under a name.

    Raises:
        RequestError: as ``read_json``, or something else.
    """
    content = read_json(path)
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise RequestError(f"{path} does not hold a list of {name}", FETCH_AGAIN)
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise RequestError(f"{path}, entry {number}: not an object", FETCH_AGAIN)
        yield f"entry {number}", entry


def read_json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """Line number and object of each line that is not blank; one line is held at a time.

    Raises:
        RequestError: missing, no plain file, unreadable, too large, or a line that is too long or not a
            JSON object (with the line).
    """
    taken, number = 0, 0
    with _opened(path) as file:
        while line := file.readline(MAX_LINE + 1):
            number += 1
            taken += len(line)
            if len(line) > MAX_LINE:
                raise _damaged(path, number, f"longer than {MAX_LINE >> 20} MiB")
            if taken > MAX_FILE:
                raise _too_large(path)
            if not line.strip():
                continue
            row = _parsed(_decoded(line.rstrip(b"\r\n"), path, number), path, number)
            if not isinstance(row, dict):
                raise _damaged(path, number, "not an object")
            yield number, row


def field(row: Mapping[str, Any], name: str, path: Path, where: str) -> str:
    """A field of an annotation row as text; ids are numbers in some files and text in others.

    Raises:
        RequestError: the field is missing or is neither text nor a number.
    """
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        state = "is missing" if name not in row else f"is not text: {_shown(value)}"
        raise RequestError(f"{path}, {where}: field '{name}' {state}", FETCH_AGAIN)
    return str(value)


def medium_path(folder: str, name: str, source: Path, where: str) -> str:
    """The path of a medium below the eval root, '/'-separated.

    Raises:
        RequestError: the name is empty, absolute, or leads out of the folder.
    """
    parts = PurePosixPath(name).parts
    if not parts or "\\" in name or "\0" in name or ".." in parts or PurePosixPath(name).is_absolute():
        raise RequestError(
            f"{source}, {where}: medium {name[:SHOWN]!r} is not a name inside {folder}",
            "media are named relative to their folder, without '..'",
        )
    return f"{folder}/{PurePosixPath(name)}"


def first_present(eval_root: Path, *names: str) -> Path:
    """The first of several places of one file that exists; the first of all if none does."""
    return next((eval_root / name for name in names if (eval_root / name).is_file()), eval_root / names[0])


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The file, at its first byte after a byte-order mark; a pipe or device is not waited for."""
    if "\0" in str(path):
        raise RequestError(f"{str(path)!r} is not a file's name")
    try:
        with os.fdopen(os.open(fetched(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise IsADirectoryError
            if file.peek(len(BOM)).startswith(BOM):
                file.read(len(BOM))
            yield file
    except FileNotFoundError:
        raise RequestError(f"no such file: {path}", f"put it below {_existing_parent(path)}") from None
    except IsADirectoryError:
        raise RequestError(
            f"{path} is not a plain file", "give the file itself, not a folder or a pipe"
        ) from None
    except OSError as fault:
        raise _unreadable(path, fault) from None


def _unreadable(path: Path, fault: OSError) -> RequestError:
    remedy = f"chmod u+r {path}" if fault.errno == errno.EACCES else ""
    return RequestError(f"cannot read {path}: {fault.strerror}", remedy)


def _decoded(data: bytes, path: Path, line: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise _damaged(path, line + data.count(b"\n", 0, fault.start), "not UTF-8 text") from None


def _parsed(text: str, path: Path, line: int) -> Any:
    """The JSON value of a text that begins at a line of a file."""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as fault:
        raise _damaged(path, line + fault.lineno - 1, fault.msg) from None
    except RecursionError:
        where = line + text.count("\n", 0, _deepest(text))
        raise _damaged(path, where, "nested too deeply") from None
    except ValueError as fault:
        what = str(fault) if isinstance(fault, _Refused) else "a number with too many digits"
        raise _damaged(path, line + text.count("\n", 0, _refused_at(text)), what) from None
    if "\\ud" in text or "\\uD" in text:
        _refuse_half_characters(text, path, line)
    return value


def _refuse_half_characters(text: str, path: Path, line: int) -> None:
    """Half of a surrogate pair is JSON and no text: it could be neither printed nor stored."""
    for found in SURROGATE.finditer(text):
        if found[1]:
            where = line + text.count("\n", 0, found.start())
            raise _damaged(path, where, f"{found[1]} is half a character")


def _refused_at(text: str) -> int:
    """Where the first constant or number is that Python does not take."""
    for found in TOKEN.finditer(text):
        token = found[0]
        if token[0] in '"[]{}':
            continue
        try:
            _DECODER.decode(token)
        except ValueError:
            return found.start()
    return 0


def _deepest(text: str) -> int:
    """Where the nesting is deepest."""
    depth, worst, place = 0, 0, 0
    for found in TOKEN.finditer(text):
        if found[0] in ("[", "{"):
            depth += 1
            if depth > worst:
                worst, place = depth, found.start()
        elif found[0] in ("]", "}"):
            depth -= 1
    return place


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:60]
    except RecursionError:
        return type(value).__name__


def _existing_parent(path: Path) -> Path:
    return next((p for p in path.parents if p.is_dir()), path.parent)


def _damaged(path: Path, line: int, what: str) -> RequestError:
    return RequestError(f"{path}, line {line}: {what}", FETCH_AGAIN)


def _too_large(path: Path) -> RequestError:
    return RequestError(
        f"{path} is larger than {MAX_FILE >> 30} GiB; no annotation or answer file is", FETCH_AGAIN
    )
