"""The body of ``raypipe score``: stored answers or stored verdicts in, one JSON object out; no model.

Rows are joined with the benchmark's questions by id and content. What does not join is counted as
``extra``, a question without a row as ``missing``, and of several rows for one question the last one
counts, as in the official scorers; the others are ``duplicate``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.benchmark import Benchmark
from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, read_json, read_json_lines
from raypipe.grading.answers import judged_correct, judged_score
from raypipe.grading.metrics import Graded, ungraded
from raypipe.records import Outcome, Question, Score

IMAGE_TAGS = ("<image>", "<im_start><image><im_end>")


def score_answers(name: str, eval_root: str | Path, answers_file: str | Path) -> dict[str, Any]:
    """Scores an answer file in the reference's format (JSON lines with question_id, prompt, text).

    A row belongs to a question if the id is the same and so is the prompt, without media tag; with or
    without the answering instruction, as the runners differ in what they store. A row without a prompt is
    joined by its id, if only one question has it.

    Raises:
        RequestError: an unknown benchmark, one whose answers need a judge, a missing or damaged file, or
            no row that belongs to any question.
    """
    benchmark = benchmarks.load(name)
    if benchmark.rule is None:
        raise RequestError(
            f"{name} has open answers that no rule can grade",
            "score stored verdicts with --verdicts FILE, or let a judge read a run: raypipe judge RUN",
        )
    path = Path(answers_file)
    questions = benchmark.questions(eval_root)
    finder = _Finder(questions)
    replies: dict[str, str] = {}
    rows, extra = 0, 0
    for number, row in read_json_lines(path):
        rows += 1
        where = f"line {number}"
        text = field(row, "text", path, where)
        question = finder.find(field(row, "question_id", path, where), row.get("prompt"))
        if question is None:
            extra += 1
        else:
            replies[question.id] = text
    if not replies:
        raise _nothing_joins(path, questions, rows)
    graded = [
        benchmarks.grade(benchmark, question, replies[question.id])
        if question.id in replies
        else ungraded(question, Outcome.FAILED)
        for question in questions
    ]
    return _summary(benchmark, graded, duplicate=rows - extra - len(replies), extra=extra)


def score_verdicts(name: str, eval_root: str | Path, files: Sequence[str | Path]) -> dict[str, Any]:
    """Scores verdicts as the reference's judge stores them.

    A verdict that is neither yes nor no, or no verdict at all, leaves its question unscored.

    Args:
        files: at least one: ``results.json`` files, ``{id: [{"pred": "yes", "score": 4}, {"q", "a",
            "pred"}]}``, or folders with one ``<id>.json`` a question.

    Raises:
        RequestError: an unknown benchmark, one that a rule grades, a missing or damaged file, no verdict
            that belongs to any question, or verdicts on another question or reference than the benchmark's.
    """
    benchmark = benchmarks.load(name)
    if benchmark.rubric is None:
        raise RequestError(f"{name} is graded by a rule, not by a judge", "score its answers: --answers FILE")
    questions = benchmark.questions(eval_root)
    by_row = {question.row_id: question for question in questions}
    verdicts: dict[str, Graded] = {}
    rows, extra = 0, 0
    for path, row_id, record in _stored_verdicts(files):
        rows += 1
        question = by_row.get(row_id)
        if question is None:
            extra += 1
        else:
            verdicts[question.id] = _graded(question, record, path)
    if not verdicts:
        raise _nothing_joins(Path(files[0]), questions, rows)
    graded = [verdicts.get(q.id) or ungraded(q, Outcome.JUDGE_FAILED) for q in questions]
    return _summary(benchmark, graded, duplicate=rows - extra - len(verdicts), extra=extra)


class _Finder:
    """Finds the question that a stored answer belongs to."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._by_content: dict[tuple[str, str], Question] = {}
        self._by_row: dict[str, list[Question]] = {}
        for question in questions:
            self._by_content[question.row_id, question.question] = question
            self._by_row.setdefault(question.row_id, []).append(question)
        self._by_content.update({(q.row_id, q.prompt): q for q in questions})

    def find(self, row_id: str, prompt: Any) -> Question | None:
        if isinstance(prompt, str):
            for tag in IMAGE_TAGS:
                prompt = prompt.removeprefix(f"{tag}\n")
            return self._by_content.get((row_id, prompt))
        candidates = self._by_row.get(row_id, [])
        return candidates[0] if len(candidates) == 1 else None


def _stored_verdicts(files: Sequence[str | Path]) -> Iterator[tuple[Path, str, Any]]:
    """File, question id and record of each stored verdict."""
    for path in map(Path, files):
        if path.is_dir():
            for single in sorted(path.glob("*.json")):
                yield single, single.stem, read_json(single)
            continue
        content = read_json(path)
        if not isinstance(content, dict):
            raise RequestError(f"{path} does not hold verdicts by question id")
        for row_id, record in content.items():
            yield path, row_id, record


def _graded(question: Question, record: Any, path: Path) -> Graded:
    parts: list[Row] = [part for part in record if isinstance(part, dict)] if isinstance(record, list) else []
    verdict, judged = (*parts, {}, {})[:2]
    for key, ours in (("q", question.question), ("a", question.reference)):
        theirs = judged.get(key)
        if theirs is not None and str(theirs).strip() != ours.strip():
            raise RequestError(
                f"{path}: the verdict on {question.row_id!r} was given against {theirs!r}, "
                f"and the benchmark says {ours!r}",
                "the reference pairs wrong answers when it runs on several GPUs; judge the predictions again",
            )
    correct = judged_correct(verdict.get("pred"))
    unread = ungraded(question, Outcome.JUDGE_UNREADABLE)
    if correct is None:
        return unread
    return replace(unread, value=float(correct), score=judged_score(verdict.get("score")), outcome=Outcome.OK)


def _nothing_joins(path: Path, questions: Sequence[Question], rows: int) -> RequestError:
    return RequestError(
        f"none of the {rows} rows of {path} belongs to a question of {questions[0].benchmark}",
        f"rows are joined by id and prompt; the first question is {questions[0].row_id!r}: "
        f"{questions[0].prompt[:120]!r}",
    )


def _summary(benchmark: Benchmark, graded: list[Graded], duplicate: int, extra: int) -> dict[str, Any]:
    """The object that ``raypipe score --json`` prints; a metric that nothing is known of is null."""
    scores: list[Score] = benchmarks.scores(benchmark, graded)
    n = sum(g.value is not None for g in graded)
    return {
        "benchmark": benchmark.name,
        "metrics": {score.metric: _known(score.value) for score in scores},
        "primary": benchmark.primary,
        "n": n,
        "missing": len(graded) - n,
        "duplicate": duplicate,
        "extra": extra,
        "outcomes": dict(sorted(Counter(g.outcome.value for g in graded).items())),
        "intervals": {score.metric: [_known(score.low), _known(score.high)] for score in scores},
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
