"""Files of the official VQA evaluation: questions and annotations of a split, and what servers take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import RequestError
from raypipe.eval_root import SHOWN, field, read_json_lines, read_json_list
from raypipe.formats.question_files import SAME_RELEASE, Truth
from raypipe.grading.soft_accuracy import ten_answers
from raypipe.grading.vqa_answers import processed
from raypipe.records import Question
from raypipe.submission import expect_all_answered, write_whole

FACETS = ("answer_type", "question_type")
IMAGE_ID = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True)
class Annotated:
    """A question with its ten answers as JSON text, and its types as tags."""

    row_id: str
    image_id: int
    question: str
    answers: str
    tags: tuple[str, ...]


def read_annotated(path: Path, annotations: Path) -> Iterator[Annotated]:
    """The questions of a split joined with its annotations, in the order of the questions.

    Raises:
        RequestError: a damaged entry, or the two files differ in their questions or images.
    """
    truth: Truth[tuple[str, str, tuple[str, ...]]] = Truth(annotations)
    for where, row in read_json_list(annotations, "annotations"):
        row_id, image = (field(row, name, annotations, where) for name in ("question_id", "image_id"))
        tags = tuple(f"{facet}={field(row, facet, annotations, where)}" for facet in FACETS)
        truth.add(row_id, (image, ten_answers(row.get("answers"), f"{annotations}, {where}"), tags), where)
    for where, row in read_json_list(path, "questions"):
        row_id, image, text = (field(row, n, path, where) for n in ("question_id", "image_id", "question"))
        of_image, answers, tags = truth.take(row_id, f"{path}, {where}")
        if of_image != image or not IMAGE_ID.fullmatch(image):
            raise truth.disagreement(
                f"{path}, {where}: question {row_id} is about image {image[:SHOWN]!r}, and in "
                f"{annotations.name} about {of_image[:SHOWN]!r}"
            )
        yield Annotated(row_id, int(image), text, answers, tags)
    truth.expect_all_taken(path)


def write_server_answers(
    path: Path, suffix: str, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """A JSON array over all that the server asks, in its order; "" for what was not asked or not answered.

    Args:
        path: LLaVA's question file of all that the server asks, of which ``questions`` are a part.
        suffix: the answering instruction that its texts may end in.
        replies: by question id.
        out: the file to write.

    Raises:
        RequestError: nothing was answered, or the question file is missing, damaged, or not that of these
            questions.
    """
    name = questions[0].benchmark
    if not any(question.id in replies for question in questions):
        raise RequestError(f"none of the {len(questions)} questions of {name} has an answer")
    asked = {question.row_id: question for question in questions}
    if len(asked) < len(questions):
        raise RequestError(f"{name}: {len(questions) - len(asked)} questions share an id with another")
    seen = set()
    rows = []
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, prompt = (field(row, key, path, where) for key in ("question_id", "text"))
        if row_id in seen:
            raise RequestError(f"{path}, {where}: question {row_id} is there twice", "fetch the file again")
        seen.add(row_id)
        question = asked.get(row_id)
        if question is not None and prompt.removesuffix(suffix) != question.question:
            raise RequestError(
                f"question {row_id} is {question.question!r} in the questions asked, and in {path.name} "
                f"{prompt.removesuffix(suffix)!r}",
                SAME_RELEASE,
            )
        reply = replies.get(question.id, "") if question else ""
        rows.append({"question_id": row["question_id"], "answer": processed(reply)})
    lost = asked.keys() - seen
    if lost:
        raise RequestError(
            f"{path} lacks {len(lost)} of the questions asked, for example {min(lost)}", SAME_RELEASE
        )
    return [write_whole(out, json.dumps(rows).encode())]


def write_image_answers(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """VizWiz's JSON array of image and processed answer, in the order of the questions.

    Args:
        questions: ``extra`` has the name of the ``image``.
        replies: by question id; a reply that is empty is an answer.

    Raises:
        RequestError: a question has no answer, which the server does not take.
    """
    expect_all_answered(questions, replies)
    rows = [{"image": q.extra["image"], "answer": processed(replies[q.id])} for q in questions]
    return [write_whole(out, json.dumps(rows).encode())]
