"""Reading the files below an eval root: annotations, answer files, and names of media.

Annotations are other people's files. A missing or damaged one is refused with its name and line, and
a medium's name may not lead out of the folder it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from raypipe.errors import RequestError

Row = dict[str, Any]


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RequestError: missing, unreadable, or not JSON (with the line).
    """
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as fault:
        raise _damaged(path, fault.lineno, fault.msg) from None


def read_json_rows(path: Path) -> list[Row]:
    """The objects of a JSON file that holds an array of them.

    Raises:
        RequestError: as ``read_json``, or something else than an array of objects.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise RequestError(f"{path} does not hold an array of rows")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise RequestError(f"{path}, row {number}: not an object")
    return rows


def read_json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """Line number and object of each line that is not blank.

    Raises:
        RequestError: missing, unreadable, or a line that is not a JSON object (with the line).
    """
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as fault:
            raise _damaged(path, number, fault.msg) from None
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
        state = "is missing" if name not in row else f"is not text: {json.dumps(value)[:60]}"
        raise RequestError(f"{path}, {where}: field '{name}' {state}")
    return str(value)


def medium_path(folder: str, name: str, source: Path, where: str) -> str:
    """The path of a medium below the eval root, '/'-separated.

    Raises:
        RequestError: the name is empty, absolute, or leads out of the folder.
    """
    parts = PurePosixPath(name).parts
    if not parts or "\\" in name or "\0" in name or ".." in parts or PurePosixPath(name).is_absolute():
        raise RequestError(
            f"{source}, {where}: medium {name!r} is not a name inside {folder}",
            "media are named relative to their folder, without '..'",
        )
    return f"{folder}/{PurePosixPath(name)}"


def first_present(eval_root: Path, *names: str) -> Path:
    """The first of several places of one file that exists; the first of all if none does."""
    return next((eval_root / name for name in names if (eval_root / name).is_file()), eval_root / names[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"no such file: {path}", f"put it below {_existing_parent(path)}") from None
    except UnicodeDecodeError as fault:
        line = fault.object[: fault.start].count(b"\n") + 1
        raise _damaged(path, line, "not UTF-8 text") from None
    except OSError as fault:
        raise RequestError(f"cannot read {path}: {fault.strerror}") from None


def _existing_parent(path: Path) -> Path:
    return next((p for p in path.parents if p.is_dir()), path.parent)


def _damaged(path: Path, line: int, what: str) -> RequestError:
    return RequestError(f"{path}, line {line}: {what}", "the file is damaged; fetch it again")
