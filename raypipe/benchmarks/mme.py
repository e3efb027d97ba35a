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

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from raypipe.benchmark import ONE_WORD, Benchmark, make_question, without_suffix
from raypipe.errors import RequestError
from raypipe.eval_root import field, first_present, medium_path, read_json_lines
from raypipe.eval_table import read_text_lines
from raypipe.grading.answers import first_yes_or_no
from raypipe.grading.metrics import GradedTable, Mask, Metric, accuracies, all_right, proportion
from raypipe.grading.rules import ExactMatch
from raypipe.grading.statistics import Floats
from raypipe.records import MediumKind, MediumRef, Question
from raypipe.submission import all_answered, write_whole

NAME = "mme"
QUESTIONS = "MME/llava_mme.jsonl"
RELEASE = "MME/MME_Benchmark_release_version"
SOURCE = (
    "llava_mme.jsonl is in LLaVA's eval.zip; images and answers are had on request from the authors of MME "
    f"(BradyFU/Awesome-Multimodal-Large-Language-Models) and belong into {RELEASE}/<task>/"
)
PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
YES_OR_NO = "Please answer yes or no."
HITS, ANSWERED, BOTH, PAIRS = range(4)
WIDTH = 4
BREAKS = str.maketrans("\t\n\r", "   ")

Truth = dict[str, str]  # question as the release words it -> its answer


def read_questions(eval_root: Path) -> list[Question]:
    """The question file joined with the release's answers by image and wording.

    Raises:
        RequestError: a damaged row, an unknown task, answers that are missing or do not fit, or an image
            that is not asked about twice.
    """
    path = eval_root / QUESTIONS
    truth: dict[str, Truth] = {}
    asked: dict[str, int] = {}
    questions = []
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, image, prompt = (field(row, name, path, where) for name in ("question_id", "image", "text"))
        medium = MediumRef(MediumKind.IMAGE, medium_path(RELEASE, image, path, where))
        task = row_id.partition("/")[0]
        if task not in PERCEPTION + COGNITION:
            raise RequestError(f"{path}, {where}: {task!r} is none of MME's 14 tasks")
        if row_id != image:
            raise RequestError(f"{path}, {where}: question {row_id!r} is about {image!r}")
        bare = without_suffix(prompt, ONE_WORD, path, where)
        if image not in truth:
            truth[image] = _read_truth(eval_root, task, image)
        wording = _wording(bare, truth[image])
        if wording is None:
            raise RequestError(f"{path}, {where}: the release does not ask {bare!r} about {image}", SOURCE)
        asked[image] = asked.get(image, 0) + 1
        answer = truth[image][wording]
        extra = {"wording": wording, "answer": answer}
        questions.append(make_question(NAME, row_id, medium, prompt, bare, answer.lower(), task, extra))
    for image, count in asked.items():
        if count != 2 or len(truth[image]) != 2:
            raise RequestError(
                f"{path}: {count} questions on {image}, and {len(truth[image])} in the release; "
                "MME asks two of each image"
            )
    return questions


def _read_truth(eval_root: Path, task: str, image: str) -> Truth:
    folder = f"{RELEASE}/{task}"
    name = f"{PurePosixPath(image).stem}.txt"
    path = first_present(eval_root, f"{folder}/questions_answers_YN/{name}", f"{folder}/{name}")
    if not path.is_file():
        raise RequestError(f"{NAME}: no such file: {path}", SOURCE)
    truth = {}
    for number, line in read_text_lines(path):
        if line.strip():
            question, _, answer = line.strip().partition("\t")
            truth[question.strip()] = answer.strip()
            if answer.strip().lower() not in ("yes", "no"):
                raise RequestError(
                    f"{path}, line {number}: the answer is neither yes nor no: {answer[:60]!r}"
                )
    return truth


def _wording(bare: str, truth: Truth) -> str | None:
    """The question as the release words it: the converter adds its request after one space, else two."""
    bare = bare.strip()
    tries = [bare] if YES_OR_NO in bare else [f"{bare}{space}{YES_OR_NO}" for space in (" ", "  ")]
    return next((wording for wording in tries if wording in truth), None)


def measure(table: GradedTable) -> list[Metric]:
    """``perception``, ``cognition``, ``accuracy``, ``accuracy_plus``, and three numbers of each task."""
    both, asked = all_right(table, table.cluster)
    columns = [np.nan_to_num(table.value), ~np.isnan(table.value), np.nan_to_num(both), ~np.isnan(both)]
    counts = np.stack(columns, axis=1).astype(np.float64)
    members = {task: table.category == task for task in table.categories()}
    metrics = []
    for name, tasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
        inside = [member for task, member in members.items() if task in tasks]
        if inside:
            metrics.append(_total(name, inside, counts))
    metrics += [*accuracies(table), proportion("accuracy_plus", both, asked)]
    for task, member in members.items():
        metrics.append(proportion(f"accuracy_plus/{task}", both, member & asked))
        metrics.append(_total(f"score/{task}", [member], counts))
    return metrics


def _total(name: str, inside: list[Mask], counts: Floats) -> Metric:
    """The sum of some tasks' scores; unknown while one of them has no image with both answers."""
    member = np.logical_or.reduce(inside)
    wide = np.concatenate([counts * task[:, None] for task in inside], axis=1)
    known = all(counts[task, PAIRS].any() for task in inside)
    answered = member & (counts[:, ANSWERED] > 0) & known
    return Metric(name, member, answered, wide, summed, (0.0, 200.0 * len(inside)))


def summed(sums: Floats) -> Floats:
    """The sum of task scores whose counts lie side by side; nan if one of them is not known."""
    tasks = sums.reshape(*sums.shape[:-1], -1, WIDTH)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = tasks[..., HITS] / tasks[..., ANSWERED] + tasks[..., BOTH] / tasks[..., PAIRS]
    return 100 * scores.sum(axis=-1)


def write_upload(
    eval_root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path
) -> list[Path]:
    """The calculator's files, ``<out>/<task>.txt``: name, question, answer and reply, two lines an image."""
    lines: dict[str, dict[str, list[str]]] = {}
    for question, reply in zip(questions, all_answered(questions, replies), strict=True):
        name = f"{PurePosixPath(question.row_id).stem}.txt"
        cells = (name, question.extra["wording"], question.extra["answer"], reply.translate(BREAKS))
        lines.setdefault(question.category, {}).setdefault(question.row_id, []).append("\t".join(cells))
    return [
        write_whole(
            out / f"{task}.txt", "".join(f"{line}\n" for pair in pairs.values() for line in pair).encode()
        )
        for task, pairs in lines.items()
    ]


BENCHMARK = Benchmark(
    name=NAME,
    title="MME",
    media=MediumKind.IMAGE,
    folder="MME",
    files=(QUESTIONS,),
    read=read_questions,
    rule=ExactMatch(first_yes_or_no),
    measure=measure,
    primary="perception",
    upload=write_upload,
    source=SOURCE,
    published_elsewhere={"LLaVA-1.5-7B": 1510.7, "LLaVA-1.5-13B": 1531.3},
)
