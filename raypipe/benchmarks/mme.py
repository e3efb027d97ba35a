"""MME: 2,374 yes-or-no questions, two on each of 1,187 images: ten tasks of perception, four of cognition.

Scorer: the calculator of the MME release, after LLaVA's converter. A task scores 100 times the share of
right answers (``accuracy``) plus 100 times the share of images with both right (``accuracy_plus``);
``perception`` and ``cognition`` sum their tasks. Only the first four characters of a reply are read.
Where raypipe differs: the two questions of an image are found by the image, while the calculator pairs
lines by position; a question without an answer is missing, and so is its image from ``accuracy_plus``; a
task of which nothing is answered makes its sum unknown, not smaller. A tab or line break in a reply would
shift the calculator's columns: the export writes a space for each.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from raypipe.benchmark import ONE_WORD, Benchmark
from raypipe.errors import RequestError
from raypipe.formats.mme_release import read_image_answers, wording_of, write_calculator_files
from raypipe.formats.question_files import read_asked
from raypipe.grading.answers import first_yes_or_no
from raypipe.grading.rules import ExactMatch
from raypipe.grading.task_scores import task_metrics
from raypipe.records import MediumKind, Question

NAME = "mme"
QUESTIONS = "MME/llava_mme.jsonl"
RELEASE = "MME/MME_Benchmark_release_version"
SOURCE = (
    "llava_mme.jsonl is in LLaVA's eval.zip; images and answers are had on request from the authors of MME "
    f"(BradyFU/Awesome-Multimodal-Large-Language-Models) and belong into {RELEASE}/<task>/"
)
TASKS = {
    "perception": (
        *("existence", "count", "position", "color", "posters"),
        *("celebrity", "scene", "landmark", "artwork", "OCR"),
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}


def read_questions(eval_root: Path) -> list[Question]:
    """The question file joined with the release's answers by image and wording.

    Raises:
        RequestError: a damaged row, an unknown task, answers that are missing or do not fit, or an image
            that is not asked about twice.
    """
    path = eval_root / QUESTIONS
    truth: dict[str, dict[str, str]] = {}
    questions = []
    for asked in read_asked(path, RELEASE, ONE_WORD):
        image, at = asked.image, f"{path}, {asked.where}"
        task = asked.row_id.partition("/")[0]
        if task not in (known for tasks in TASKS.values() for known in tasks):
            raise RequestError(f"{at}: {task[:60]!r} is none of MME's 14 tasks")
        if asked.row_id != image:
            raise RequestError(f"{at}: question {asked.row_id!r} is about {image!r}")
        if image not in truth:
            truth[image] = read_image_answers(eval_root / RELEASE, image, SOURCE)
        wording = wording_of(asked.bare, truth[image])
        if wording is None:
            raise RequestError(f"{at}: the release does not ask {asked.bare!r} about {image}", SOURCE)
        answer = truth[image][wording]
        extra = {"wording": wording, "answer": answer}
        questions.append(asked.question(NAME, answer.lower(), task, extra))
    for image, count in Counter(question.row_id for question in questions).items():
        if count != 2 or len(truth[image]) != 2:
            raise RequestError(
                f"{path}: {count} questions on {image}, and {len(truth[image])} in the release; "
                "MME asks two of each image"
            )
    return questions


BENCHMARK = Benchmark(
    name=NAME,
    title="MME",
    media=MediumKind.IMAGE,
    folder="MME",
    files=(QUESTIONS,),
    read=read_questions,
    rule=ExactMatch(first_yes_or_no),
    measure=partial(task_metrics, sums=TASKS),
    primary="perception",
    size=2_374,
    upload=write_calculator_files,
    source=SOURCE,
    published_elsewhere={"LLaVA-1.5-7B": 1510.7, "LLaVA-1.5-13B": 1531.3},
)
