"""The body of ``raypipe score``: stored answers or stored verdicts in, one JSON object out; no model.

Rows are joined with the benchmark's questions by id and content. What does not join is counted as
``extra``, a question without a row as ``missing``, and of several rows for one question the last one
counts, as in the official scorers; the others are ``duplicate``.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.benchmark import Benchmark
from raypipe.errors import RequestError, remedied
from raypipe.eval_root import field, read_json_lines
from raypipe.grading.metrics import Graded, ungraded
from raypipe.records import Outcome, Question, Score

IMAGE_TAGS = ("<image>", "<im_start><image><im_end>")


def score_answers(
    name: str, eval_root: str | Path, answers_file: str | Path, split: str | None = None
) -> dict[str, Any]:
    """Scores an answer file in the reference's format (JSON lines with question_id, prompt, text).

    A row belongs to a question if the id is the same and so is the prompt, without media tag; with or
    without the answering instruction, as the runners differ in what they store. A row without a prompt is
    joined by its id, if only one question has it.

    Raises:
        RequestError: an unknown benchmark, one whose answers need a judge, a missing or damaged file, or
            no row that belongs to any question.
    """
    benchmark = benchmarks.load(name, split)
    _expect_rule(benchmark)
    questions = benchmark.questions(eval_root)
    replies, rows, extra = read_replies(questions, Path(answers_file))
    graded = [
        benchmarks.grade(benchmark, question, replies[question.id])
        if question.id in replies
        else ungraded(question, Outcome.FAILED)
        for question in questions
    ]
    return _summary(benchmark, [graded], duplicate=rows - extra - len(replies), extra=extra)


@remedied("give the judge's output as the reference's scripts write it")
def score_verdicts(
    name: str, eval_root: str | Path, files: Sequence[str | Path], split: str | None = None
) -> dict[str, Any]:
    """Scores verdicts as the reference's judge stores them; where it judged several times, each time's too.

    A verdict that cannot be read, or no verdict at all, leaves its question unscored. Where the question
    files are not there and the verdicts name their questions, those count as all; ``questions_missing`` is
    then the file that would say more.

    Args:
        files: at least one; which kinds there are is the benchmark's (see its file).

    Raises:
        RequestError: an unknown benchmark, one without a judge, a missing or damaged file, no verdict
            that belongs to any question, or verdicts on another question or reference than the benchmark's.
    """
    benchmark = benchmarks.load(name, split)
    if benchmark.verdicts is None:
        raise RequestError(f"{name} is graded by a rule, not by a judge", "score its answers: --answers FILE")
    paths = [Path(file) for file in files]
    unread = benchmark.missing_data(eval_root) if benchmark.named_by_verdicts else None
    named = benchmark.named_by_verdicts(paths) if benchmark.named_by_verdicts and unread else []
    questions = named or benchmark.questions(eval_root)
    stored = benchmark.verdicts(questions, paths)
    if not any(stored.runs):
        raise _nothing_joins(paths[0], questions, stored.rows)
    runs = [[run.get(q.id) or ungraded(q, Outcome.JUDGE_FAILED) for q in questions] for run in stored.runs]
    duplicate = stored.rows - stored.extra - sum(len(run) for run in stored.runs)
    summary = _summary(benchmark, runs, duplicate, stored.extra)
    return {**summary, "questions_missing": unread} if named else summary


def read_replies(questions: Sequence[Question], path: Path) -> tuple[dict[str, str], int, int]:
    """The replies of an answer file by question id, its rows, and how many of them belong to no question.

    Raises:
        RequestError: a missing or damaged file, or no row that belongs to any question.
    """
    finder = _Finder(questions)
    replies: dict[str, str] = {}
    rows, extra = 0, 0
    for number, row in read_json_lines(path):
        rows += 1
        where = f"line {number}"
        text = field(row, "text", path, where)
        prompt = None if row.get("prompt") is None else field(row, "prompt", path, where)
        question = finder.find(field(row, "question_id", path, where), prompt)
        if question is None:
            extra += 1
        else:
            replies[question.id] = text
    if not replies:
        raise _nothing_joins(path, questions, rows)
    return replies, rows, extra


def _expect_rule(benchmark: Benchmark) -> None:
    if benchmark.rule is not None:
        return
    if benchmark.verdicts is not None:
        raise RequestError(
            f"{benchmark.name} has open answers that no rule can grade",
            "score stored verdicts with --verdicts FILE, or let a judge read a run: raypipe judge RUN",
        )
    raise RequestError(
        f"the right answers of {benchmark.name} {benchmark.split} are not public".replace("  ", " "),
        f"write the file for its evaluation server: raypipe export {benchmark.name}",
    )


class _Finder:
    """Finds the question that a stored answer belongs to."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._by_content: dict[tuple[str, str], Question] = {}
        self._by_row: dict[str, list[Question]] = {}
        for question in questions:
            self._by_content[question.row_id, question.question] = question
            self._by_row.setdefault(question.row_id, []).append(question)
        self._by_content.update({(q.row_id, q.prompt): q for q in questions})

    def find(self, row_id: str, prompt: str | None) -> Question | None:
        if prompt is not None:
            for tag in IMAGE_TAGS:
                prompt = prompt.removeprefix(f"{tag}\n")
            return self._by_content.get((row_id, prompt))
        candidates = self._by_row.get(row_id, [])
        return candidates[0] if len(candidates) == 1 else None


def _nothing_joins(path: Path, questions: Sequence[Question], rows: int) -> RequestError:
    return RequestError(
        f"none of the {rows} rows of {path} belongs to a question of {questions[0].benchmark}",
        f"rows are joined by id and prompt; the first question is {questions[0].row_id!r}: "
        f"{questions[0].prompt[:120]!r}",
    )


def _summary(benchmark: Benchmark, runs: list[list[Graded]], duplicate: int, extra: int) -> dict[str, Any]:
    """The object that ``raypipe score --json`` prints; a metric that nothing is known of is null.

    ``n`` and ``missing`` count questions with and without a value; ``counts`` has both for each metric.
    Where a judge judged several times, ``runs`` and ``spread``, their standard deviation, are there too.
    """
    scores: list[Score] = benchmarks.scores_of_runs(benchmark, runs)
    n = sum(any(g.value is not None for g in each) for each in zip(*runs, strict=True))
    result: dict[str, Any] = {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        **({"split": benchmark.split} if benchmark.split else {}),
        "metrics": {score.metric: _known(score.value) for score in scores},
        "primary": benchmark.primary,
        "n": n,
        "missing": len(runs[0]) - n,
        "duplicate": duplicate,
        "extra": extra,
        "outcomes": dict(sorted(Counter(g.outcome.value for run in runs for g in run).items())),
        "intervals": {score.metric: [_known(score.low), _known(score.high)] for score in scores},
        "counts": {score.metric: [score.n, score.missing] for score in scores},
        "published": dict(benchmark.published),
        "published_source": benchmark.published_source,
        "published_elsewhere": dict(benchmark.published_elsewhere),
    }
    if len(runs) > 1:
        each = [benchmark.metrics(run) for run in runs]
        result["runs"] = [{name: _known(value) for name, value in metrics.items()} for metrics in each]
        result["spread"] = {name: _spread([metrics[name] for metrics in each]) for name in each[0]}
    return result


def _spread(values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return statistics.pstdev(known) if known else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
