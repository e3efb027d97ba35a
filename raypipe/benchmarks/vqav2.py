"""VQAv2: test-dev2015 (107,394 questions, secret answers), and val2014 (214,354) to score at home.

Scorer of test-dev: the evaluation server; LLaVA ``scripts/convert_vqav2_for_submission.py`` writes what
it takes, an answer or "" for every question of all of test2015. Scorer of val2014: the official VQA
evaluation, on the reply as it would be uploaded. Its answers and questions are read from the official
files, whose names are below; the reference has no val2014 of its own, so that its prompt is the question
with the instruction of test-dev. Where raypipe differs: a damaged answer file is refused, while the
reference skips such lines; an answered question that test2015 lacks or words otherwise is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raypipe.benchmark import ONE_WORD, VIDEO_LLAVA, Benchmark, make_question, without_suffix
from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, medium_path, read_json, read_json_lines
from raypipe.grading.metrics import GradedTable, Metric, accuracies, by_facet
from raypipe.grading.soft_accuracy import ten_answers, uploaded_soft_match
from raypipe.grading.vqa_answers import processed
from raypipe.records import MediumKind, MediumRef, Question
from raypipe.store.files import Store

NAME = "vqav2"
TEST_DEV = "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl"
TEST = "vqav2/llava_vqav2_mscoco_test2015.jsonl"
VAL_QUESTIONS = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
VAL_ANSWERS = "vqav2/v2_mscoco_val2014_annotations.json"
FACETS = ("answer_type", "question_type")
IMAGE_ID = re.compile(r"[0-9]{1,12}")


def read_test_dev(eval_root: Path) -> list[Question]:
    """The question file; nobody but the server knows an answer.

    Raises:
        RequestError: a damaged row.
    """
    path = eval_root / TEST_DEV
    questions = []
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, prompt, image = (field(row, name, path, where) for name in ("question_id", "text", "image"))
        bare = without_suffix(prompt, ONE_WORD, path, where)
        medium = MediumRef(MediumKind.IMAGE, medium_path("vqav2/test2015", image, path, where))
        questions.append(make_question(NAME, row_id, medium, prompt, bare, ""))
    return questions


def read_val(eval_root: Path) -> list[Question]:
    """The official questions joined with the official annotations.

    Raises:
        RequestError: a damaged entry, or the two files differ in their questions or images.
    """
    path, truth_path = eval_root / VAL_QUESTIONS, eval_root / VAL_ANSWERS
    truth: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for row, where in _entries(truth_path, "annotations"):
        row_id, image = (field(row, name, truth_path, where) for name in ("question_id", "image_id"))
        tags = tuple(f"{facet}={field(row, facet, truth_path, where)}" for facet in FACETS)
        answers = ten_answers(row.get("answers"), f"{truth_path}, {where}")
        if truth.setdefault(row_id, (image, answers, tags)) != (image, answers, tags):
            raise RequestError(f"{truth_path}, {where}: another annotation of {row_id} came before")
    asked = set()
    questions = []
    for row, where in _entries(path, "questions"):
        row_id, image, bare = (field(row, n, path, where) for n in ("question_id", "image_id", "question"))
        of_image, answers, tags = truth.get(row_id, ("", "", ()))
        if of_image != image or not IMAGE_ID.fullmatch(image):
            raise _disagreement(f"{path}, {where}: no annotation of question {row_id} on image {image!r}")
        asked.add(row_id)
        medium = MediumRef(MediumKind.IMAGE, f"vqav2/val2014/COCO_val2014_{int(image):012d}.jpg")
        questions.append(make_question(NAME, row_id, medium, bare + ONE_WORD, bare, answers, tags=tags))
    unasked = truth.keys() - asked
    if unasked:
        raise _disagreement(
            f"{truth_path} annotates {len(unasked)} questions that {path.name} does not ask, "
            f"for example {min(unasked)}"
        )
    return questions


def _entries(path: Path, name: str) -> Iterator[tuple[Row, str]]:
    """Each entry of a list in an official file, and where it is."""
    content = read_json(path)
    entries: Any = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise RequestError(f"{path} does not hold a list of {name}", VAL.source)
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise RequestError(f"{path}, entry {number}: not an object")
        yield entry, f"entry {number}"


def write_upload(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """A JSON array over all of test2015 in its order; "" for what was not asked or not answered.

    Args:
        replies: by question id.
        out: the file to write.

    Raises:
        RequestError: nothing was answered, or test2015's question file is missing, damaged, or not that of
            these questions.
    """
    path = eval_root / TEST
    if not any(question.id in replies for question in questions):
        raise RequestError(f"none of the {len(questions)} questions of {NAME} has an answer")
    asked = {question.row_id: question for question in questions}
    if len(asked) < len(questions):
        raise RequestError(f"{NAME}: {len(questions) - len(asked)} questions share an id with another")
    seen = set()
    rows = []
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, prompt = (field(row, name, path, where) for name in ("question_id", "text"))
        if row_id in seen:
            raise RequestError(f"{path}, {where}: question {row_id} is there twice", "fetch the file again")
        seen.add(row_id)
        question = asked.get(row_id)
        if question is not None and prompt.removesuffix(ONE_WORD) != question.question:
            raise _disagreement(
                f"question {row_id} is {question.question!r} in test-dev, and in {path.name} "
                f"{prompt.removesuffix(ONE_WORD)!r}"
            )
        reply = replies.get(question.id, "") if question else ""
        rows.append({"question_id": row["question_id"], "answer": processed(reply)})
    lost = asked.keys() - seen
    if lost:
        raise _disagreement(f"{path} lacks {len(lost)} questions of test-dev, for example {min(lost)}")
    Store(str(out.parent)).replace(out.name, json.dumps(rows).encode())
    return [out]


def _disagreement(message: str) -> RequestError:
    return RequestError(message, "take both files from the same release")


def measure_val(table: GradedTable) -> list[Metric]:
    """Soft accuracy; also by answer type and by question type."""
    return [*accuracies(table), *by_facet(table, *FACETS)]


BENCHMARK = Benchmark(
    name=NAME,
    title="VQAv2 test-dev",
    media=MediumKind.IMAGE,
    folder="vqav2",
    files=(TEST_DEV,),
    read=read_test_dev,
    upload=write_upload,
    measure=accuracies,
    primary="accuracy",
    split="test-dev2015",
    source="questions (llava_vqav2_mscoco_test*2015.jsonl): eval.zip of LLaVA 1.5's evaluation guide, to be "
    "unpacked into the eval root; images: COCO test2015 (cocodataset.org) as vqav2/test2015",
    published={"accuracy": 74.7},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 78.5, "LLaVA-1.5-13B": 80.0},
)
VAL = Benchmark(
    name=NAME,
    title="VQAv2 val",
    media=MediumKind.IMAGE,
    folder="vqav2",
    files=(VAL_QUESTIONS, VAL_ANSWERS),
    read=read_val,
    rule=uploaded_soft_match,
    measure=measure_val,
    primary="accuracy",
    split="val2014",
    source="questions and annotations (v2_*_val2014_*.json): visualqa.org, download page, into vqav2; "
    "images: COCO val2014 (cocodataset.org) as vqav2/val2014",
)
BY_SPLIT = {benchmark.split: benchmark for benchmark in (BENCHMARK, VAL)}
