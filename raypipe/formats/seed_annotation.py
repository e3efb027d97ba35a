"""SEED-Bench's annotation: ``questions``, an array of objects, and ``question_type``, the types' names by id.

Ids are numbers in some releases and text in others; they are the same if they are the same number, or else
the same text, as in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import RequestError
from raypipe.eval_root import FETCH_AGAIN, SHOWN, Row, field, read_json
from raypipe.formats.question_files import Truth

DATA_TYPES = ("image", "video")
CHOICES = {"A": "choice_a", "B": "choice_b", "C": "choice_c", "D": "choice_d"}


@dataclass(frozen=True)
class Entry:
    """A question with its options as one text, single spaces between words, and the right letter."""

    where: str
    asked: str
    letter: str
    type_name: str
    data_type: str


def same_id(text: str) -> int | str:
    """What two ids that are the same have in common."""
    try:
        return int(text)
    except ValueError:
        return text


def read_annotation(path: Path) -> tuple[list[Row], dict[str, str]]:
    """The questions in their order, and the names of the question types by id.

    Raises:
        RequestError: the file is missing, damaged or of another form.
    """
    content = read_json(path)
    rows, types = (
        (content.get("questions"), content.get("question_type"))
        if isinstance(content, dict)
        else (None, None)
    )
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(f"{path} does not hold 'questions', an array of objects", FETCH_AGAIN)
    if not isinstance(types, dict):
        raise RequestError(f"{path} does not hold 'question_type', an object", FETCH_AGAIN)
    return rows, {str(number): str(name) for name, number in types.items()}


def read_entries(path: Path) -> Truth[Entry]:
    """The questions by ``same_id``.

    Raises:
        RequestError: a damaged question, or an id that is there twice.
    """
    rows, types = read_annotation(path)
    truth: Truth[Entry] = Truth(path)
    for number, row in enumerate(rows, 1):
        row_id = field(row, "question_id", path, f"question {number}")
        where = f"question {number} ({row_id[:SHOWN]})"
        truth.add(same_id(row_id), _entry(row, types, path, where), where)
    return truth


def spaced_once(text: str) -> str:
    return " ".join(text.split())


def _entry(row: Row, types: Mapping[str, str], path: Path, where: str) -> Entry:
    asked = [field(row, "question", path, where)]
    asked += [f"{k}. {field(row, c, path, where)}" for k, c in CHOICES.items() if row.get(c) is not None]
    letter, data_type = field(row, "answer", path, where), field(row, "data_type", path, where)
    if row.get(CHOICES.get(letter, "")) is None:
        raise RequestError(f"{path}, {where}: the answer is none of the options: {letter[:60]!r}")
    if data_type not in DATA_TYPES:
        raise RequestError(f"{path}, {where}: data_type is neither image nor video: {data_type[:60]!r}")
    number = field(row, "question_type_id", path, where)
    if number not in types:
        raise RequestError(f"{path}, {where}: 'question_type' names no type {number[:60]!r}")
    return Entry(where, spaced_once(" ".join(asked)), letter, types[number], data_type)
