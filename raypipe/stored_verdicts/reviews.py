"""Review files of LLaVA-Bench: JSON lines, each a judge's marks of reference and answer to one question.

Rows are ``{"question_id", "category", "tuple": [reference, answer], "content", "answer1_id", ...}``
(LLaVA ``llava/eval/eval_gpt_review_bench.py``). The marks are in 0..10, the reference's above 0; other ones,
and what is no pair, cannot be read. The reference pairs reviews by line, raypipe by question id.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raypipe.benchmark import Stored, make_question
from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, read_json_lines
from raypipe.grading.metrics import Graded
from raypipe.grading.reviews import as_marks, graded_by_marks, read_marks
from raypipe.records import Question


def read_reviews(questions: Sequence[Question], files: Sequence[Path]) -> Stored:
    """Review files as the reference writes them, each one run of the judge.

    A question's ``extra`` may name the ``answer_id`` of its reference answer. The category of a review is the
    question's with the benchmark's name before it (``llava_bench_conv``).

    Raises:
        RequestError: a damaged row, one of another category or against another reference answer than the
            question's, one whose ``content`` gives other marks, or a file without any review of a question.
    """
    by_row = {question.row_id: question for question in questions}
    runs, rows, extra = [], 0, 0
    for path in files:
        run: dict[str, Graded] = {}
        for number, row in read_json_lines(path):
            rows += 1
            question = by_row.get(field(row, "question_id", path, f"line {number}"))
            if question is None:
                extra += 1
            else:
                run[question.id] = _graded(question, row, path, f"line {number}")
        if not run:
            raise RequestError(
                f"{path} reviews no question of {questions[0].benchmark}", "reviews are joined by question_id"
            )
        runs.append(run)
    return Stored(runs, rows, extra)


def questions_of_reviews(files: Sequence[Path], benchmark: str) -> list[Question]:
    """The questions that review files name, by id and category.

    Enough for scores, not for intervals by image.

    Raises:
        RequestError: a damaged row.
    """
    named: dict[str, Question] = {}
    for path in files:
        for number, row in read_json_lines(path):
            where = f"line {number}"
            row_id, category = (field(row, name, path, where) for name in ("question_id", "category"))
            plain, extra = category.removeprefix(f"{benchmark}_"), {"answer_id": row.get("answer1_id")}
            named.setdefault(row_id, make_question(benchmark, row_id, None, "", "", "", plain, extra))
    return list(named.values())


def _graded(question: Question, row: Row, path: Path, where: str) -> Graded:
    for name, ours in (
        ("category", f"{question.benchmark}_{question.category}"),
        ("answer1_id", question.extra["answer_id"]),
    ):
        if ours is not None and row.get(name, ours) != ours:
            raise RequestError(
                f"{path}, {where}: the review of {question.row_id} has the {name} {row[name]!r}, and the "
                f"benchmark says {ours!r}",
                "the reference joins by line; review the answers again",
            )
    if not isinstance(row.get("tuple"), list):
        raise RequestError(f"{path}, {where}: field 'tuple' is missing or not a list")
    marks, said = as_marks(row["tuple"]), read_marks(row.get("content"))
    if marks and said and marks != said:
        raise RequestError(f"{path}, {where}: the tuple is {list(marks)}, and the judge wrote {list(said)}")
    return graded_by_marks(question, marks)
