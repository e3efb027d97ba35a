"""Zero-shot video question answering in the Video-ChatGPT format: what its four benchmarks share.

Each is a folder with ``test_q.json``, ``test_a.json`` and videos; answers are open and a judge compares
them with the reference. Source: Video-LLaVA ``llava/eval/video`` (after Video-ChatGPT
``quantitative_evaluation``). Where raypipe differs: questions and answers are joined by ``question_id``,
while the reference pairs them by position, which gives wrong references on more than one GPU; a
question whose video is missing is counted, while the reference skips it in silence; a verdict
without a readable score leaves the mean score, while the reference keeps it in the denominator; a verdict
given on another question or answer than the benchmark's is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from raypipe.benchmark import VIDEO_LLAVA, Benchmark, Graded, Stored, make_question, ungraded
from raypipe.errors import RequestError
from raypipe.eval_root import field, medium_path, read_json_rows
from raypipe.grading.answers import judged_correct, judged_score
from raypipe.grading.metrics import GradedTable, Metric, accuracies, mean
from raypipe.records import MediumKind, MediumRef, Outcome, Question
from raypipe.stored_verdicts.by_question import differing, stored_verdicts, verdict_parts

ROOT = "GPT_Zero_Shot_QA"
# The reference's list in its order, then the two that the published TGIF data also needs.
EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".gif", ".webm")
SCORE_RANGE = (0.0, 5.0)
PUBLISHED_SOURCE = f"{VIDEO_LLAVA}, judged by gpt-3.5-turbo"
GUIDE = "Video-LLaVA's guide (TRAIN_AND_VALIDATE.md, section Evaluation)"


def video_qa(
    name: str,
    title: str,
    folder: str,
    videos: str,
    size: int,
    published: Mapping[str, float],
    prefix: str = "",
) -> Benchmark:
    """One of the four.

    Args:
        folder: its folder below ``GPT_Zero_Shot_QA``.
        videos: the folder of the videos below that.
        size: how many questions it has.
        published: Video-LLaVA-7B's accuracy (percent) and score (0..5).
        prefix: what a video's file name has before its ``video_name``.
    """
    place = f"{ROOT}/{folder}"
    return Benchmark(
        name=name,
        title=title,
        media=MediumKind.VIDEO,
        folder=place,
        files=(f"{place}/test_q.json", f"{place}/test_a.json"),
        read=partial(read_questions, name=name, place=place, videos=f"{place}/{videos}", prefix=prefix),
        measure=measure,
        primary="accuracy",
        size=size,
        rubric="video_qa",
        verdicts=read_verdicts,
        max_new_tokens=1024,
        reference_template="llava_v1",
        published=published,
        published_source=PUBLISHED_SOURCE,
        source=f"Questions, answers and videos: {ROOT} of the archive that {GUIDE} links; unpack it into the "
        f"eval root, so that {place} is there.",
    )


def read_questions(eval_root: Path, name: str, place: str, videos: str, prefix: str) -> list[Question]:
    """Joins questions and answers by id and finds each video's file.

    Raises:
        RequestError: a file or row is damaged, an id has two answers, the two files differ in their ids,
            or a video's name leads out of its folder.
    """
    path, answers_path = eval_root / place / "test_q.json", eval_root / place / "test_a.json"
    answers = _read_answers(answers_path)
    media: dict[str, MediumRef] = {}
    questions = []
    for number, row in enumerate(read_json_rows(path), 1):
        where = f"row {number}"
        row_id = field(row, "question_id", path, where)
        text = field(row, "question", path, where)
        video_name = field(row, "video_name", path, where)
        if row_id not in answers:
            raise RequestError(f"{path}, {where}: no answer to {row_id!r} in {answers_path.name}")
        if video_name not in media:
            inside = medium_path(videos, video_name, path, where).removeprefix(f"{videos}/")
            media[video_name] = find_video(eval_root, f"{videos}/{prefix}{inside}")
        answer, category = answers[row_id]
        questions.append(make_question(name, row_id, media[video_name], text, text, answer, category))
    unasked = answers.keys() - {q.row_id for q in questions}
    if unasked:
        raise RequestError(
            f"{answers_path} answers {len(unasked)} questions that {path.name} does not ask, "
            f"for example {min(unasked)!r}",
            "take both files from the same release",
        )
    return questions


def _read_answers(path: Path) -> dict[str, tuple[str, str]]:
    """Answer and question type by id."""
    answers: dict[str, tuple[str, str]] = {}
    for number, row in enumerate(read_json_rows(path), 1):
        where = f"row {number}"
        category = "" if row.get("type") is None else field(row, "type", path, where)
        answer = field(row, "answer", path, where), category
        row_id = field(row, "question_id", path, where)
        if answers.setdefault(row_id, answer) != answer:
            raise RequestError(f"{path}, {where}: another answer to {row_id!r} came before")
    return answers


def find_video(eval_root: Path, stem: str) -> MediumRef:
    """The video of that name without extension, by the first extension that is there; ``.mp4`` if none is."""
    # Unlike Path.is_file, this takes a name that is too long for one that is not there.
    found = next((e for e in EXTENSIONS if os.path.isfile(eval_root / (stem + e))), EXTENSIONS[0])
    return MediumRef(MediumKind.VIDEO, stem + found)


def read_verdicts(questions: Sequence[Question], files: Sequence[Path]) -> Stored:
    """Verdicts as the reference's judge stores them; a verdict that is neither yes nor no has no value.

    Args:
        files: of one run of the judge: ``results.json`` files, ``{id: [{"pred": "yes", "score": 4},
            {"q", "a", "pred"}]}``, or folders with one ``<id>.json`` a question.
    """
    by_row = {question.row_id: question for question in questions}
    verdicts: dict[str, Graded] = {}
    rows, extra = 0, 0
    for path, row_id, record in stored_verdicts(files):
        rows += 1
        question = by_row.get(row_id)
        if question is None:
            extra += 1
        else:
            verdicts[question.id] = _graded(question, record, path)
    return Stored([verdicts], rows, extra)


def _graded(question: Question, record: Any, path: Path) -> Graded:
    verdict, judged = verdict_parts(record)
    ours = {"q": question.question, "a": question.reference}
    key = differing(judged, **ours)
    if key is not None:
        raise RequestError(
            f"{path}: the verdict on {question.row_id!r} was given against {judged[key]!r}, "
            f"and the benchmark says {ours[key]!r}",
            "the reference pairs wrong answers when it runs on several GPUs; judge the predictions again",
        )
    correct = judged_correct(verdict.get("pred"))
    unread = ungraded(question, Outcome.JUDGE_UNREADABLE)
    if correct is None:
        return unread
    return replace(unread, value=float(correct), score=judged_score(verdict.get("score")), outcome=Outcome.OK)


def measure(table: GradedTable) -> list[Metric]:
    """Accuracy over the verdicts that are yes or no, by question type too, and the mean score."""
    return [*accuracies(table), mean("score", table.score, table.everything, SCORE_RANGE)]
