"""VQAv2: test-dev2015 (107,394 questions, secret answers), and val2014 (214,354) to score at home.

Scorer of test-dev: the evaluation server; LLaVA ``scripts/convert_vqav2_for_submission.py`` writes what
it takes, an answer or "" for every question of all of test2015. Scorer of val2014: the official VQA
evaluation, on the reply as it would be uploaded. Its answers and questions are read from the official
files, whose names are below; the reference has no val2014 of its own, so that its prompt is the question
with the instruction of test-dev. Where raypipe differs: a damaged answer file is refused, while the
reference skips such lines; an answered question that test2015 lacks or words otherwise is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from raypipe.benchmark import ONE_WORD, VIDEO_LLAVA, Benchmark, make_question
from raypipe.formats.official_vqa import FACETS, read_annotated, write_server_answers
from raypipe.formats.question_files import read_asked
from raypipe.grading.metrics import accuracies, accuracies_by_facet
from raypipe.grading.soft_accuracy import uploaded_soft_match
from raypipe.records import MediumKind, MediumRef, Question

NAME = "vqav2"
TEST_DEV, TEST = (f"vqav2/llava_vqav2_mscoco_{name}.jsonl" for name in ("test-dev2015", "test2015"))
VAL_QUESTIONS = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
VAL_ANSWERS = "vqav2/v2_mscoco_val2014_annotations.json"


def read_test_dev(eval_root: Path) -> list[Question]:
    """The question file; nobody but the server knows an answer."""
    return [row.question(NAME, "") for row in read_asked(eval_root / TEST_DEV, "vqav2/test2015", ONE_WORD)]


def read_val(eval_root: Path) -> list[Question]:
    """The official questions joined with the official annotations."""
    questions = []
    for entry in read_annotated(eval_root / VAL_QUESTIONS, eval_root / VAL_ANSWERS):
        medium = MediumRef(MediumKind.IMAGE, f"vqav2/val2014/COCO_val2014_{entry.image_id:012d}.jpg")
        asked = entry.row_id, medium, entry.question + ONE_WORD, entry.question
        questions.append(make_question(NAME, *asked, entry.answers, tags=entry.tags))
    return questions


def write_upload(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    return write_server_answers(eval_root / TEST, ONE_WORD, questions, replies, out)


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
    size=107_394,
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
    measure=partial(accuracies_by_facet, facets=FACETS),
    primary="accuracy",
    size=214_354,
    split="val2014",
    source="questions and annotations (v2_*_val2014_*.json): visualqa.org, download page, into vqav2; "
    "images: COCO val2014 (cocodataset.org) as vqav2/val2014",
)
BY_SPLIT = {benchmark.split: benchmark for benchmark in (BENCHMARK, VAL)}
