"""ScienceQA's ``problems.json`` and ``pid_splits.json``: the problems, and which are the test split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, read_json
from raypipe.formats.question_files import SAME_RELEASE, Truth
from raypipe.grading.answers import LETTERS

GRADE = re.compile("grade([0-9]{1,2})")


@dataclass(frozen=True)
class Problem:
    """The right option's letter, the subject ("" if not given), and tags."""

    letter: str
    subject: str
    tags: tuple[str, ...]


class Problems:
    """The problems of the test split, each checked when it is asked for, and asked for but once."""

    def __init__(self, path: Path, splits_path: Path) -> None:
        self._path = path
        self._rows = read_json(path)
        if not isinstance(self._rows, dict):
            raise RequestError(f"{path} does not hold one object a problem id")
        splits = read_json(splits_path)
        if not isinstance(splits, dict) or not isinstance(splits.get("test"), list):
            raise RequestError(f"{splits_path} does not hold a 'test' split")
        self._test: Truth[None] = Truth(splits_path, SAME_RELEASE)
        for row_id in splits["test"]:
            self._test.add(str(row_id), None, "the test split")

    def expect_all_taken(self, asked: Path) -> None:
        """Raises RequestError if a problem of the test split was not asked for."""
        self._test.expect_all_taken(asked)

    def take(self, row_id: str, illustrated: bool, asked_at: str) -> Problem:
        """One problem; its tags are ``subject``, ``topic``, ``grade`` and ``context``, where they are given.

        ``grade`` is 1-6 or 7-12. ``context`` is ``text`` (there is a hint), ``image``, both, or ``none``.

        Raises:
            RequestError: it is not in the test split, was asked for before, or is damaged.
        """
        self._test.take(row_id, asked_at)
        row = self._rows.get(row_id)
        letter = self._right_letter(row, row_id)
        tags = self._tags(row, illustrated, f"problem {row_id!r}")
        return Problem(letter, str(row.get("subject") or ""), tags)

    def _right_letter(self, row: Any, row_id: str) -> str:
        choices = row.get("choices") if isinstance(row, dict) else None
        index = row.get("answer") if isinstance(row, dict) else None
        if not isinstance(choices, list) or not isinstance(index, int) or isinstance(index, bool):
            raise RequestError(f"{self._path}: problem {row_id!r} lacks choices or an answer")
        if not 0 <= index < min(len(choices), len(LETTERS)):
            raise RequestError(f"{self._path}: the answer of problem {row_id!r} is not one of its choices")
        return LETTERS[index]

    def _tags(self, row: Row, illustrated: bool, where: str) -> tuple[str, ...]:
        path = self._path
        tags = [f"{name}={field(row, name, path, where)}" for name in ("subject", "topic") if row.get(name)]
        if row.get("grade"):
            grade = GRADE.fullmatch(field(row, "grade", path, where))
            if grade is None or not 1 <= int(grade[1]) <= 12:
                raise RequestError(
                    f"{path}, {where}: the grade is not grade1 to grade12: {row['grade']!r:.60}"
                )
            tags.append("grade=1-6" if int(grade[1]) <= 6 else "grade=7-12")
        if illustrated:
            tags.append("context=image")
        if "hint" in row:
            hinted = bool(row["hint"]) and bool(field(row, "hint", path, where))
            tags += ["context=text"] if hinted else [] if illustrated else ["context=none"]
        return tuple(tags)
