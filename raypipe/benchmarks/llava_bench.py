"""LLaVA-Bench in the wild: 60 open questions on 24 images, in three categories (conv, detail, complex).

Questions: ``questions.jsonl``; ``context.jsonl`` describes each image for a judge that cannot see it and
``answers_gpt4.jsonl`` holds the reference answers. A judge marks reference and answer from 1 to 10.
Scorer: LLaVA ``llava/eval/summarize_gpt_review.py``: ``all`` is 100 times the mean mark of the answers
over that of the references, of means rounded to three digits, itself rounded to one; several reviews
of the same answers are averaged after that rounding, as the published 65.4 is (64.7, 65.3, 66.3).

Where raypipe differs: questions, references and reviews are joined by question id and compared by
content, while the reference pairs them by line; a review that the judge failed ([-1, -1]) has no value
and counts as missing beside the number of those read, while the reference averages the -1 in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raypipe.benchmark import VIDEO_LLAVA, Benchmark, Stored, make_question, ungraded
from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, medium_path, read_json_lines
from raypipe.grading.metrics import Graded
from raypipe.grading.reviews import BEST_MARK, as_marks, read_marks, review_metrics
from raypipe.records import MediumKind, MediumRef, Outcome, Question

NAME = "llava_bench"
FOLDER = "llava-bench-in-the-wild"
QUESTIONS, CONTEXT, REFERENCES = (
    f"{FOLDER}/{name}.jsonl" for name in ("questions", "context", "answers_gpt4")
)
REVIEW_PREFIX = "llava_bench_"


def read_questions(eval_root: Path) -> list[Question]:
    """Questions with the reference answer; ``extra`` has ``context`` and the reference's ``answer_id``.

    Raises:
        RequestError: a damaged row, an image without context, a question without reference answer, or
            reference answers to other questions.
    """
    path, references_path = eval_root / QUESTIONS, eval_root / REFERENCES
    contexts, references = _read_contexts(eval_root / CONTEXT), _by_question(references_path)
    questions = []
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, text, image = (field(row, name, path, where) for name in ("question_id", "text", "image"))
        at, reference = references.pop(row_id, ("", {}))
        if not reference or reference.get("prompt", text) != text:
            raise _disagreement(
                f"{path}, {where}: {references_path.name} has no answer to {row_id}, {text!r}"
            )
        if image not in contexts:
            raise _disagreement(f"{path}, {where}: {image} is not described in {CONTEXT}")
        extra = {"context": contexts[image], "answer_id": reference.get("answer_id")}
        medium = MediumRef(MediumKind.IMAGE, medium_path(f"{FOLDER}/images", image, path, where))
        answer, category = field(reference, "text", references_path, at), field(row, "category", path, where)
        questions.append(make_question(NAME, row_id, medium, text, text, answer, category, extra))
    if references:
        raise _disagreement(
            f"{references_path} answers questions that {path.name} does not ask: {min(references)}"
        )
    return questions


def _read_contexts(path: Path) -> dict[str, str]:
    """What each image shows; several captions are lines of one text."""
    contexts: dict[str, str] = {}
    for number, row in read_json_lines(path):
        captions = row.get("caption")
        if not isinstance(captions, list):
            captions = [field(row, "caption", path, f"line {number}")]
        if not all(isinstance(caption, str) for caption in captions):
            raise RequestError(f"{path}, line {number}: field 'caption' is neither text nor a list of texts")
        contexts[field(row, "image", path, f"line {number}")] = "\n".join(captions)
    return contexts


def _by_question(path: Path) -> dict[str, tuple[str, Row]]:
    """Place and row by question id."""
    rows: dict[str, tuple[str, Row]] = {}
    for number, row in read_json_lines(path):
        row_id = field(row, "question_id", path, f"line {number}")
        if rows.setdefault(row_id, (f"line {number}", row))[1] != row:
            raise RequestError(f"{path}, line {number}: another answer to {row_id} came before")
    return rows


def _disagreement(message: str) -> RequestError:
    return RequestError(message, f"take all of {FOLDER} from one release")


def named_by_reviews(files: Sequence[Path]) -> list[Question]:
    """The questions of review files, by id and category: enough for scores, not for intervals by image."""
    named: dict[str, Question] = {}
    for path in files:
        for number, row in read_json_lines(path):
            where = f"line {number}"
            row_id, category = (field(row, name, path, where) for name in ("question_id", "category"))
            plain, extra = category.removeprefix(REVIEW_PREFIX), {"answer_id": row.get("answer1_id")}
            named.setdefault(row_id, make_question(NAME, row_id, None, "", "", "", plain, extra))
    return list(named.values())


def read_verdicts(questions: Sequence[Question], files: Sequence[Path]) -> Stored:
    """Review files as the reference writes them, each one run of the judge.

    Rows are ``{"question_id", "category", "tuple": [reference, answer], "content", "answer1_id", ...}``. The
    marks are in 0..10, the reference's above 0; other ones, and what is no pair, cannot be read.

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
            raise RequestError(f"{path} reviews no question of {NAME}", "reviews are joined by question_id")
        runs.append(run)
    return Stored(runs, rows, extra)


def _graded(question: Question, row: Row, path: Path, where: str) -> Graded:
    for name, ours in (
        ("category", REVIEW_PREFIX + question.category),
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
    unread = ungraded(question, Outcome.JUDGE_UNREADABLE)
    if marks is None:
        return unread
    baseline, score = marks
    return replace(unread, value=score / BEST_MARK, score=score, baseline=baseline, outcome=Outcome.OK)


BENCHMARK = Benchmark(
    name=NAME,
    title="LLaVA-Bench (in the wild)",
    media=MediumKind.IMAGE,
    folder=FOLDER,
    files=(QUESTIONS, CONTEXT, REFERENCES),
    read=read_questions,
    measure=review_metrics,
    primary="all",
    verdicts=read_verdicts,
    named_by_verdicts=named_by_reviews,
    source="The data set liuhaotian/llava-bench-in-the-wild on Hugging Face (questions, context, GPT-4's "
    f"answers and images); put its content into {FOLDER} of the eval root.",
    max_new_tokens=1024,
    pad=False,
    published={"all": 73.1},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 65.4, "LLaVA-1.5-13B": 72.5},
)
