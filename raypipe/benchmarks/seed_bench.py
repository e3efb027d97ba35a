"""SEED-Bench: 19,242 multiple-choice questions in twelve types, nine on images and three on videos.

Scorer: LLaVA's ``convert_seed_for_submission.py``: a reply must be the right letter and nothing else.
``image`` and ``video`` split by data type, ``accuracy/<type>`` by question type. A video question is asked
about one frame from the middle of its video; ``raypipe unpack`` takes them out. Where raypipe differs: an
unanswered question is missing, while the reference counts it wrong; a type of which
nothing is right scores 0, where the reference stops; options and questions of the two files are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from raypipe.benchmark import OPTION_LETTER, Benchmark
from raypipe.formats.question_files import read_asked
from raypipe.formats.seed_annotation import read_annotation, read_entries, same_id, spaced_once
from raypipe.formats.seed_videos import SOURCE_NAMES, write_video_frames
from raypipe.grading.metrics import GradedTable, Metric, accuracies, proportion
from raypipe.grading.rules import ExactMatch
from raypipe.records import MediumKind, Question
from raypipe.submission import all_answered, write_whole

NAME = "seed_bench"
ANNOTATION = "seed_bench/SEED-Bench.json"
QUESTIONS = "seed_bench/llava-seed-bench.jsonl"
VIDEO_FRAMES = "seed_bench/SEED-Bench-video-image"


def read_questions(eval_root: Path) -> list[Question]:
    """The question file joined with the annotation, in the order of the question file.

    Raises:
        RequestError: a damaged row, or the two files do not hold the same questions and options.
    """
    path, truth = eval_root / QUESTIONS, read_entries(eval_root / ANNOTATION)
    questions = []
    for asked in read_asked(path, NAME, OPTION_LETTER):
        entry = truth.take(same_id(asked.row_id), f"{path}, {asked.where}")
        if entry.asked != spaced_once(asked.bare):
            raise truth.disagreement(
                f"{truth.path}, {entry.where}: {entry.asked!r} here, and {asked.bare!r} in {QUESTIONS}"
            )
        category, tags = entry.type_name, (f"data={entry.data_type}",)
        questions.append(asked.question(NAME, entry.letter, category, tags=tags))
    truth.expect_all_taken(path)
    return questions


def as_it_stands(reply: str) -> str:
    return reply


def measure(table: GradedTable) -> list[Metric]:
    """``accuracy``, ``image``, ``video``, and accuracy by question type."""
    kinds = table.facet("data")
    return [*accuracies(table), *(proportion(kind, table.value, asked) for kind, asked in kinds.items())]


def write_upload(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """JSON lines ``{"question_id", "prediction"}`` in the order of the annotation, ids as it writes them."""
    answers = all_answered(questions, replies)
    said = {same_id(q.row_id): reply for q, reply in zip(questions, answers, strict=True)}
    ids = [row["question_id"] for row in read_annotation(eval_root / ANNOTATION)[0]]
    rows = ({"question_id": row_id, "prediction": said[same_id(str(row_id))]} for row_id in ids)
    return [write_whole(out, "".join(f"{json.dumps(row)}\n" for row in rows).encode())]


BENCHMARK = Benchmark(
    name=NAME,
    title="SEED-Bench",
    media=MediumKind.IMAGE,
    folder=NAME,
    files=(ANNOTATION, QUESTIONS),
    read=read_questions,
    rule=ExactMatch(as_it_stands),
    measure=measure,
    primary="accuracy",
    size=19_242,
    upload=write_upload,
    media_sources=SOURCE_NAMES,
    extract=partial(write_video_frames, annotation=ANNOTATION, frames=VIDEO_FRAMES),
    source=(
        "SEED-Bench.json and the images are on https://huggingface.co/datasets/AILab-CVC/SEED-Bench; "
        "llava-seed-bench.jsonl is in LLaVA's eval.zip; raypipe unpack seed_bench makes the video frames of "
        "the videos of Something-Something v2, EPIC-Kitchens and Breakfast"
    ),
    published_elsewhere={"LLaVA-1.5-7B": 58.6, "LLaVA-1.5-13B": 61.6},
)
