"""Grade files of MM-Vet: ``{"v1_<id>": {"model": [], "content": [], "score": []}}``, lists over the runs.

A question that the judge gave up on has no value, while MM-Vet's evaluator stores and averages 0.0 for it; so
has a question not yet graded, while the evaluator needs all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypipe.benchmark import Stored
from raypipe.errors import RequestError
from raypipe.eval_root import Row, read_json_objects
from raypipe.grading.grades import graded_by_grade, read_grade
from raypipe.grading.metrics import Graded
from raypipe.records import Question

PREFIX = "v1_"  # of a question's id, in all of MM-Vet's own files


def read_grades(questions: Sequence[Question], files: Sequence[Path]) -> Stored:
    """Grade files, each with one run of the judge or several; the runs of all files count alike.

    Raises:
        RequestError: a damaged file, a score that is not the one in ``content``, or no grade of a question.
    """
    by_id = {PREFIX + question.row_id: question for question in questions}
    runs: list[dict[str, Graded]] = []
    rows, extra = 0, 0
    for path in files:
        of_file: list[dict[str, Graded]] = []
        for entry_id, entry in read_json_objects(path).items():
            grades = _grades(entry, path, entry_id)
            rows += len(grades)
            question = by_id.get(entry_id)
            if question is None:
                extra += len(grades)
                continue
            of_file += [{} for _ in range(len(grades) - len(of_file))]
            for run, grade in zip(of_file, grades, strict=False):
                run[question.id] = graded_by_grade(question, grade)
        if not of_file:
            raise RequestError(
                f"{path} grades no question of {questions[0].benchmark}",
                f"grades are joined by the id {PREFIX}<question_id>",
            )
        runs += of_file
    return Stored(runs, rows, extra)


def _grades(entry: Row, path: Path, where: str) -> list[float | None]:
    """The grade of each run; None where the judge did not give one."""
    scores, contents = entry.get("score"), entry.get("content", [])
    if not isinstance(scores, list) or not isinstance(contents, list):
        raise RequestError(f"{path}, {where}: fields 'score' and 'content' are not both lists")
    contents = [*contents, *[None] * len(scores)]
    return [_grade(score, content, path, where) for score, content in zip(scores, contents, strict=False)]


def _grade(score: Any, content: Any, path: Path, where: str) -> float | None:
    said = read_grade(content)
    number = isinstance(score, int | float) and not isinstance(score, bool)
    grade = float(score) if number and 0 <= score <= 1 else None
    if grade is not None and said is not None and not math.isclose(grade, said):
        raise RequestError(f"{path}, {where}: the score is {grade}, and the judge wrote {content!r}")
    gave_up = grade == 0 and isinstance(content, str) and said is None
    return None if gave_up else grade
