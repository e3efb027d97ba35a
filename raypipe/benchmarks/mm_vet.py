"""MM-Vet: 218 open questions on 200 images that need up to six capabilities at once.

Questions: LLaVA's ``llava-mm-vet.jsonl``; reference answers and capabilities: MM-Vet's ``mm-vet.json``,
whose ids are ``v1_<question_id>``. Without that file the questions have no reference, and there is no
metric by capability. Scorer: MM-Vet's evaluator: a judge grades each answer from 0 to 1, ``total`` is 100
times the mean. ``upload`` writes what its online grader takes (LLaVA ``scripts/convert_mmvet_for_eval.py``).

Where raypipe differs: the two files are joined by id and compared by image and question; the names of
capability sets are sorted, while the official ones depend on Python's set order; a question that the
judge gave up on, or has not graded yet, has no value; the evaluator averages 0.0 in, and needs all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raypipe.benchmark import VIDEO_LLAVA, Benchmark
from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, read_json_objects
from raypipe.formats.question_files import Asked, Truth, read_asked
from raypipe.grading.grades import capability_tags, grade_metrics
from raypipe.grading.judging import by_share, where_known
from raypipe.records import MediumKind, Question
from raypipe.stored_verdicts.grades import PREFIX, read_grades
from raypipe.submission import expect_all_answered, write_whole

NAME = "mm_vet"
FOLDER = "mm-vet"
QUESTIONS, TRUTH = f"{FOLDER}/llava-mm-vet.jsonl", f"{FOLDER}/mm-vet.json"


def read_questions(eval_root: Path) -> list[Question]:
    """The question file, with reference and capabilities (as tags) where ``mm-vet.json`` is there.

    Raises:
        RequestError: a damaged row, an id that is there twice, or the two files hold different questions.
    """
    path, with_truth = eval_root / QUESTIONS, (eval_root / TRUTH).exists()
    truth: Truth[Row] = Truth(eval_root / TRUTH, "take both of one release, or score without mm-vet.json")
    for name, entry in (read_json_objects(truth.path) if with_truth else {}).items():
        truth.add(name, entry, name)
    questions: dict[str, Question] = {}
    for asked in read_asked(path, f"{FOLDER}/images"):
        if asked.row_id in questions:
            raise RequestError(f"{path}, {asked.where}: question {asked.row_id} came before")
        question = asked.question(NAME, "")
        questions[asked.row_id] = _joined(question, asked, truth) if with_truth else question
    truth.expect_all_taken(path)
    return list(questions.values())


def _joined(question: Question, asked: Asked, truth: Truth[Row]) -> Question:
    name, path = PREFIX + asked.row_id, truth.path
    entry = truth.take(name, f"{QUESTIONS}, {asked.where}")
    image, wording, answer = (field(entry, key, path, name) for key in ("imagename", "question", "answer"))
    if image != asked.image or wording.split() != asked.bare.split():
        raise truth.disagreement(
            f"{name} is {asked.bare!r} on {asked.image} in {QUESTIONS} "
            f"and {wording!r} on {image} in {path.name}"
        )
    needed = entry.get("capability")
    if not isinstance(needed, list) or not needed or not all(isinstance(each, str) for each in needed):
        raise RequestError(f"{path}, {name}: field 'capability' is not a list of names")
    return replace(question, reference=answer, tags=capability_tags(needed))


def write_upload(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """Writes ``{"v1_<question_id>": reply}`` in the order of the questions, for MM-Vet's online grader."""
    expect_all_answered(questions, replies)
    content = {PREFIX + question.row_id: replies[question.id] for question in questions}
    return [write_whole(out, json.dumps(content, indent=2).encode())]


BENCHMARK = Benchmark(
    name=NAME,
    title="MM-Vet",
    media=MediumKind.IMAGE,
    folder=FOLDER,
    files=(QUESTIONS,),
    read=read_questions,
    measure=grade_metrics,
    primary="total",
    size=218,
    rubric=where_known("mm_vet"),
    judged=by_share,
    verdicts=read_grades,
    upload=write_upload,
    source="llava-mm-vet.jsonl is in LLaVA's eval.zip (docs/Evaluation.md); mm-vet.json and the images are "
    f"in mm-vet.zip of the repository yuweihao/MM-Vet; put all into {FOLDER} of the eval root.",
    max_new_tokens=1024,
    pad=False,
    published={"total": 32.0},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 31.1, "LLaVA-1.5-13B": 36.1},
)
