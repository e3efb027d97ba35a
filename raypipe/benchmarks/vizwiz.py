"""VizWiz: what blind people ask about their photos: test (8,000, secret answers), and val to score at home.

Scorer of test: the evaluation server; LLaVA ``scripts/convert_vizwiz_for_submission.py`` writes its file.
val is read from VizWiz's own ``val.json`` (images in ``vizwiz/val``) and asked as test is: the question,
then the instruction of LLaVA's file. It is scored by leave-one-out soft accuracy, reply and answers
processed. Where raypipe differs: VizWiz's own evaluation leaves the answers as they are (in val.json
they are clean); the average precision of answerability needs a confidence and is not computed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from raypipe.benchmark import ONE_WORD, VIDEO_LLAVA, Benchmark, make_question
from raypipe.errors import RequestError
from raypipe.eval_root import field, medium_path, read_json_rows
from raypipe.formats.official_vqa import write_image_answers
from raypipe.formats.question_files import read_asked
from raypipe.grading.metrics import accuracies, accuracies_by_facet
from raypipe.grading.soft_accuracy import processed_soft_match, ten_answers
from raypipe.records import MediumKind, MediumRef, Question

NAME = "vizwiz"
TEST, VAL = "vizwiz/llava_test.jsonl", "vizwiz/val.json"
INSTRUCTION = f"\nWhen the provided information is insufficient, respond with 'Unanswerable'.{ONE_WORD}"


def read_test(eval_root: Path) -> list[Question]:
    """The question file; nobody but the server knows an answer."""
    asked = read_asked(eval_root / TEST, "vizwiz/test", INSTRUCTION)
    return [row.question(NAME, "", extra={"image": row.image}) for row in asked]


def read_val(eval_root: Path) -> list[Question]:
    """VizWiz's annotations; a question's id is its image's name.

    Raises:
        RequestError: a damaged row.
    """
    path = eval_root / VAL
    questions = []
    for number, row in enumerate(read_json_rows(path), 1):
        where = f"row {number}"
        image, bare, kind = (field(row, name, path, where) for name in ("image", "question", "answer_type"))
        answerable = row.get("answerable")
        if answerable not in (0, 1):
            raise RequestError(f"{path}, {where}: field 'answerable' is neither 0 nor 1: {answerable!r}")
        answers = ten_answers(row.get("answers"), f"{path}, {where}")
        medium = MediumRef(MediumKind.IMAGE, medium_path("vizwiz/val", image, path, where))
        tags = (f"answerability={'' if answerable else 'un'}answerable", f"answer_type={kind}")
        questions.append(make_question(NAME, image, medium, bare + INSTRUCTION, bare, answers, tags=tags))
    return questions


BENCHMARK = Benchmark(
    name=NAME,
    title="VizWiz test",
    media=MediumKind.IMAGE,
    folder="vizwiz",
    files=(TEST,),
    read=read_test,
    upload=write_image_answers,
    measure=accuracies,
    primary="accuracy",
    size=8_000,
    split="test",
    source="questions: eval.zip of LLaVA 1.5's evaluation guide, to be unpacked into the eval root; "
    "images (test.zip): vizwiz.org, task VQA, as vizwiz/test",
    published={"accuracy": 48.1},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 50.0, "LLaVA-1.5-13B": 53.6},
)
BY_SPLIT = {
    "test": BENCHMARK,
    "val": Benchmark(
        name=NAME,
        title="VizWiz val",
        media=MediumKind.IMAGE,
        folder="vizwiz",
        files=(VAL,),
        read=read_val,
        rule=processed_soft_match,
        measure=partial(accuracies_by_facet, facets=("answer_type", "answerability")),
        primary="accuracy",
        split="val",
        source="val.json (Annotations.zip) and images (val.zip as vizwiz/val): vizwiz.org, task VQA",
    ),
}
