"""MM-Vet: 218 open questions on 200 images that need up to six capabilities at once.

Questions: LLaVA's ``llava-mm-vet.jsonl``; reference answers and capabilities: MM-Vet's ``mm-vet.json``,
whose ids are ``v1_<question_id>``. Without that file the questions have no reference, and there is no
metric by capability. Scorer: MM-Vet's evaluator: a judge grades each answer from 0 to 1, ``total`` is 100
times the mean. ``upload`` writes what its online grader takes (LLaVA ``scripts/convert_mmvet_for_eval.py``).

Where raypipe differs: the two files are joined by id and compared by image and question; the names of
capability sets are sorted, while the official ones depend on Python's set order; a question that the
judge gave up on has no value, while the evaluator stores and averages 0.0 for it; so has a question not yet
graded, while the evaluator needs all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypipe.benchmark import VIDEO_LLAVA, Benchmark, Stored, make_question, ungraded
from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, medium_path, read_json, read_json_lines
from raypipe.grading.metrics import Graded, GradedTable, Metric, proportion
from raypipe.records import MediumKind, MediumRef, Outcome, Question
from raypipe.store.files import Store

NAME = "mm_vet"
FOLDER = "mm-vet"
QUESTIONS, TRUTH = f"{FOLDER}/llava-mm-vet.jsonl", f"{FOLDER}/mm-vet.json"
FACETS = ("capability", "capabilities")


def official_id(question: Question) -> str:
    return f"v1_{question.row_id}"


def read_questions(eval_root: Path) -> list[Question]:
    """The question file, with reference and capabilities (as tags) where ``mm-vet.json`` is there.

    Raises:
        RequestError: a damaged row, an id that is there twice, or the two files hold different questions.
    """
    path, truth_path = eval_root / QUESTIONS, eval_root / TRUTH
    truth = _objects(truth_path) if truth_path.exists() else None
    asked: dict[str, Question] = {}
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, text, image = (field(row, name, path, where) for name in ("question_id", "text", "image"))
        medium = MediumRef(MediumKind.IMAGE, medium_path(f"{FOLDER}/images", image, path, where))
        question = make_question(NAME, row_id, medium, text, text, "")
        if truth is not None:
            entry = truth.pop(official_id(question), None)
            if entry is None:
                raise _disagreement(f"{path}, {where}: {official_id(question)} is not in {truth_path.name}")
            question = _joined(question, image, entry, truth_path)
        if asked.setdefault(row_id, question) is not question:
            raise RequestError(f"{path}, {where}: question {row_id} came before")
    if truth:
        raise _disagreement(
            f"{truth_path} holds {len(truth)} questions that {path.name} does not ask, "
            f"for example {min(truth)}"
        )
    return list(asked.values())


def _joined(question: Question, image: str, entry: Row, path: Path) -> Question:
    where = official_id(question)
    of_image, wording, answer = (
        field(entry, name, path, where) for name in ("imagename", "question", "answer")
    )
    if of_image != image or wording.split() != question.question.split():
        raise _disagreement(
            f"{where} is {question.question!r} on {image} in {QUESTIONS} "
            f"and {wording!r} on {of_image} in {path.name}"
        )
    needed = entry.get("capability")
    if not isinstance(needed, list) or not needed or not all(isinstance(name, str) for name in needed):
        raise RequestError(f"{path}, {where}: field 'capability' is not a list of names")
    needed = sorted(set(needed))
    tags = (*(f"capability={name}" for name in needed), f"capabilities={'+'.join(needed)}")
    return replace(question, reference=answer, tags=tags)


def _objects(path: Path) -> dict[str, Row]:
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise RequestError(f"{path} does not hold one object a question id")
    return content


def _disagreement(message: str) -> RequestError:
    return RequestError(message, "take both files from the same release, or score without mm-vet.json")


def read_verdicts(questions: Sequence[Question], files: Sequence[Path]) -> Stored:
    """Grade files ``{"v1_<id>": {"model": [], "content": [], "score": []}}``; lists have one entry a run.

    Args:
        files: each with one run or several; the runs of all files count alike.

    Raises:
        RequestError: a damaged file, a score that is not the one in ``content``, or no grade of a question.
    """
    by_id = {official_id(question): question for question in questions}
    runs: list[dict[str, Graded]] = []
    rows, extra = 0, 0
    for path in files:
        of_file: list[dict[str, Graded]] = []
        for entry_id, entry in _objects(path).items():
            grades = _grades(entry, path, entry_id)
            rows += len(grades)
            question = by_id.get(entry_id)
            if question is None:
                extra += len(grades)
                continue
            of_file += [{} for _ in range(len(grades) - len(of_file))]
            for run, grade in zip(of_file, grades, strict=False):
                unread = ungraded(question, Outcome.JUDGE_UNREADABLE)
                run[question.id] = (
                    unread if grade is None else replace(unread, value=grade, outcome=Outcome.OK)
                )
        if not of_file:
            raise RequestError(
                f"{path} grades no question of {NAME}", "grades are joined by the id v1_<question_id>"
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


def read_grade(reply: Any) -> float | None:
    """The grade in a judge's reply, as the evaluator reads it: before the first space, in 0..1."""
    try:
        grade = float(reply.split(" ")[0]) if isinstance(reply, str) else math.nan
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def measure(table: GradedTable) -> list[Metric]:
    """``total``, and ``total/capability=<name>`` and ``total/capabilities=<names>`` where they are known."""
    parts = [
        proportion(f"total/{facet}={value}", table.value, mask)
        for facet in FACETS
        for value, mask in table.facet(facet).items()
    ]
    return [proportion("total", table.value, table.everything), *parts]


def write_upload(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """Writes ``{"v1_<question_id>": reply}`` in the order of the questions, for MM-Vet's online grader.

    Args:
        replies: by question id; a reply that is empty is an answer.
        out: the file to write.

    Raises:
        RequestError: a question has no reply.
    """
    unanswered = [official_id(question) for question in questions if question.id not in replies]
    if unanswered:
        raise RequestError(
            f"{len(unanswered)} of {len(questions)} questions have no answer, for example {unanswered[0]}",
            "answer all questions; the grader wants each of them",
        )
    content = {official_id(question): replies[question.id] for question in questions}
    Store(str(out.parent)).replace(out.name, json.dumps(content, indent=2).encode())
    return [out]


BENCHMARK = Benchmark(
    name=NAME,
    title="MM-Vet",
    media=MediumKind.IMAGE,
    folder=FOLDER,
    files=(QUESTIONS,),
    read=read_questions,
    measure=measure,
    primary="total",
    verdicts=read_verdicts,
    upload=write_upload,
    source="llava-mm-vet.jsonl is in LLaVA's eval.zip (docs/Evaluation.md); mm-vet.json and the images are "
    f"in mm-vet.zip of the repository yuweihao/MM-Vet; put all into {FOLDER} of the eval root.",
    max_new_tokens=1024,
    pad=False,
    published={"total": 32.0},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 31.1, "LLaVA-1.5-13B": 36.1},
)
