"""What the files for evaluation servers have in common: checked whole, then written whole."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError
from raypipe.records import Question
from raypipe.store.files import Store

TIME = re.compile(rb">[0-9-]{10}T[0-9:]{8}Z<")
MAX_CELL = 32_767  # characters: a spreadsheet program cuts what is longer


def all_answered(questions: Sequence[Question], replies: Mapping[str, str]) -> list[str]:
    """The replies in the order of the questions, without white space around them.

    Raises:
        RequestError: a question has none.
    """
    expect_all_answered(questions, replies)
    return [replies[question.id].strip() for question in questions]


def expect_all_answered(questions: Sequence[Question], replies: Mapping[str, str]) -> None:
    """Raises RequestError if a question has no reply; a server would count it wrong without a word."""
    lost = [question for question in questions if question.id not in replies]
    if lost:
        raise RequestError(
            f"{len(lost)} of {len(questions)} questions of {lost[0].benchmark} have no answer, "
            f"for example {lost[0].row_id!r}",
            "have them answered first: the server counts what is missing as wrong",
        )


def write_whole(file: Path, data: bytes) -> Path:
    """Writes a file, which is whole or not there; an older one of that name is replaced.

    Raises:
        ServiceError: the disk refused.
    """
    Store(str(file.parent)).replace(file.name, data)
    return file


def sheet(heading: Sequence[str], rows: Iterable[Sequence[str | int | None]]) -> bytes:
    """An xlsx file of one sheet, the same bytes each time.

    Text is always text, "=1+1" too; control characters become spaces.

    Raises:
        RequestError: a cell is longer than a spreadsheet can hold.
    """
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    filled = [heading, *rows]
    for number, row in enumerate(filled, 1):
        longest = max((len(value) for value in row if isinstance(value, str)), default=0)
        if longest > MAX_CELL:
            raise RequestError(
                f"row {number} of the sheet, {row[0]}: {longest} characters in a cell; it holds {MAX_CELL}",
                "have it answered with a lower max_new_tokens",
            )
    book = Workbook(write_only=True)
    page = book.create_sheet("Sheet1")

    def cell(value: str | int | None) -> Any:
        if not isinstance(value, str):
            return value
        text = WriteOnlyCell(page, ILLEGAL_CHARACTERS_RE.sub(" ", value))
        text.data_type = "s"
        return text

    for row in filled:
        page.append([cell(value) for value in row])
    out = io.BytesIO()
    book.save(out)
    return _timeless(out)


def _timeless(book: io.BytesIO) -> bytes:
    """The same archive without the time of its making."""
    out = io.BytesIO()
    with zipfile.ZipFile(book) as made, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as plain:
        for name in sorted(made.namelist()):
            data = made.read(name)
            if name == "docProps/core.xml":
                data = TIME.sub(b">1980-01-01T00:00:00Z<", data)
            plain.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()
