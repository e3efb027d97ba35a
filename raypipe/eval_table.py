"""Reading text lines and tab-separated tables below an eval root, one line at a time.

MMBench's tables carry pictures in their cells and are hundreds of megabytes long; a cell may hold line
breaks if it stands in quotes. Whatever is wrong is refused with the file and the line it begins at.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from raypipe.errors import RequestError
from raypipe.eval_mirror import fetched

MAX_LINE = 64 << 20  # bytes of a line and characters of a cell: no picture is that large
FETCH_AGAIN = "the file is damaged; fetch it again"
INDEX = re.compile("[0-9]{1,9}")
# What pandas reads as no value, and with it the reference; "nan" and "none" it adds in any case of letters.
NO_VALUE = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
        *("<NA>", "N/A", "NA", "n/a", "NULL", "null", "-NaN", "-nan"),
    )
)


def read_text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line, with its line end; a byte-order mark is dropped.

    Raises:
        RequestError: missing, no file, or a line that is too long or not UTF-8 text (with the line).
    """
    try:
        with open(fetched(path), "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise _damaged(path, number, f"longer than {MAX_LINE >> 20} MiB")
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise _damaged(path, number, "not UTF-8 text") from None
    except FileNotFoundError:
        raise RequestError(f"no such file: {path}", "correct the path") from None
    except OSError as fault:
        raise RequestError(f"cannot read {path}: {fault.strerror}", "see who may read it") from None


def read_table(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The line each row begins at and its cells by column, of a tab-separated file with a heading.

    Lines may end in CRLF; a cell in double quotes may hold tabs, line breaks and doubled quotes.

    Args:
        needed: columns that must be there.

    Raises:
        RequestError: as ``read_text_lines``; a heading without a needed column, or with one twice; a row
            with more or fewer cells than the heading; quotes that do not close.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))  # of the process; its default is 128 KiB
    cells = csv.reader((line for _, line in read_text_lines(path)), delimiter="\t", strict=True)
    begins = 1
    heading: list[str] = []
    try:
        for row in cells:
            if not heading:
                heading = _checked(row, needed, path)
            elif row:
                if len(row) != len(heading):
                    raise _damaged(path, begins, f"{len(row)} cells where the heading has {len(heading)}")
                yield begins, dict(zip(heading, row, strict=True))
            begins = cells.line_num + 1
    except csv.Error as fault:
        raise _damaged(path, begins, str(fault)) from None
    if not heading:
        raise _damaged(path, 1, "the file is empty")


def read_indexed_table(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, int, dict[str, str]]]:
    """Where each row of a table begins, its ``index``, and its cells; a cell without a value is empty.

    Raises:
        RequestError: as ``read_table``, or an index that is no number.
    """
    for line, row in read_table(path, ("index", *needed)):
        cells = {name: "" if is_no_value(cell) else cell for name, cell in row.items()}
        if not INDEX.fullmatch(cells["index"]):
            raise _damaged(path, line, f"the index is not a number: {cells['index'][:60]!r}")
        yield f"line {line}", int(cells["index"]), cells


def is_no_value(cell: str) -> bool:
    """Whether a cell is empty, or says so, in the eyes of the reference."""
    return cell in NO_VALUE or cell.lower() in ("nan", "none")


def _checked(heading: list[str], needed: Sequence[str], path: Path) -> list[str]:
    lacking = [name for name in needed if name not in heading]
    if lacking:
        raise _damaged(path, 1, f"the heading lacks {', '.join(lacking)}")
    if len(set(heading)) < len(heading):
        raise _damaged(path, 1, "the heading names a column twice")
    return heading


def _damaged(path: Path, line: int, what: str) -> RequestError:
    return RequestError(f"{path}, line {line}: {what}", FETCH_AGAIN)
