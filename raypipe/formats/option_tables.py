"""Tables of multiple-choice questions with their pictures, a row for each rotation of the options.

The format is MMBench's: ``index``, an optional ``hint``, ``question``, ``A`` to ``D`` of which the first
without a value is the end, ``answer`` (a letter) and ``image`` (base64 text). The rotations of a question
have the same index modulo a million (see ``grading.circular``), whatever their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import RequestError
from raypipe.eval_table import read_indexed_table
from raypipe.formats.embedded_pictures import Embedded, picture_name, write_pictures
from raypipe.grading.circular import ROTATION
from raypipe.records import MediumKind, MediumRef, Question
from raypipe.submission import all_answered, sheet, write_whole

LETTERS = "ABCD"
COLUMNS = ("question", "A", "B", "answer", "image")
UPLOADED = ("index", "question", *LETTERS, "prediction", "answer", "split")


@dataclass(frozen=True)
class Rotation:
    """One row: ``bare`` is hint, question and options, a line each; ``answer`` the right letter."""

    index: int
    bare: str
    answer: str
    picture: MediumRef
    cells: Mapping[str, str]


def read_rotations(path: Path, pictures: str) -> Iterator[Rotation]:
    """Every row of a table, the rotations of a question about the same picture.

    Args:
        pictures: the folder of the pictures, below the eval root.

    Raises:
        RequestError: a damaged row, an answer that is no option, or an index that is there twice.
    """
    of_question: dict[int, MediumRef] = {}
    seen: set[int] = set()
    for where, index, cells in read_indexed_table(path, COLUMNS):
        if index in seen:
            raise RequestError(f"{path}, {where}: index {index} is there twice")
        seen.add(index)
        base = index % ROTATION
        if base not in of_question:
            if not cells["image"]:
                raise RequestError(f"{path}, {where}: no picture")
            name = picture_name(pictures, base, cells["image"])
            of_question[base] = MediumRef(MediumKind.IMAGE, name)
        options = options_of(cells)
        answer = cells["answer"]
        if answer not in options:
            raise RequestError(f"{path}, {where}: the answer is none of the options: {answer[:60]!r}")
        lines = [*filter(None, [cells.get("hint")]), cells["question"]]
        bare = "\n".join([*lines, *(f"{letter}. {text}" for letter, text in options.items())])
        yield Rotation(index, bare, answer, of_question[base], cells)


def options_of(cells: Mapping[str, str]) -> dict[str, str]:
    """The options of a row by letter."""
    options = {}
    for letter in LETTERS:
        if not cells.get(letter):
            break
        options[letter] = cells[letter]
    return options


def unpack_pictures(eval_root: Path, table: str, pictures: str) -> int:
    """Writes the pictures of a table, one file a question; returns how many were not there yet.

    Raises:
        RequestError: a damaged row, or rotations with different pictures.
        ServiceError: the disk refused.
    """
    path = eval_root / table
    rows = (
        Embedded(where, index % ROTATION, cells["image"])
        for where, index, cells in read_indexed_table(path, COLUMNS)
    )
    return write_pictures(eval_root, pictures, path, rows)


def write_answered_table(
    table: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """The sheet that MMBench's server takes: a row each in the table's order, the raw reply beside it.

    Raises:
        RequestError: a question has no reply, or a reply is longer than a cell.
    """
    answers = all_answered(questions, replies)
    of_row = {int(question.row_id): reply for question, reply in zip(questions, answers, strict=True)}
    rows: list[list[str | int | None]] = []
    columns = UPLOADED
    for _, index, cells in read_indexed_table(table, COLUMNS):
        columns = tuple(name for name in UPLOADED if name in cells or name == "prediction")
        known = {**cells, "prediction": of_row[index]}
        rows.append([index, *(known[name] or None for name in columns[1:])])
    return [write_whole(out, sheet(columns, rows))]
