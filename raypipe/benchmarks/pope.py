"""POPE on COCO val2014: is an object in the image? 8,910 questions in three ways of picking absent objects.

Scorer: LLaVA ``llava/eval/eval_pope.py`` (after RUCAIBox/POPE). Published is the mean of the three F1.
Where raypipe differs: labels are joined by category, image and question. The reference pairs answers
with label lines by position, so that today's label files (3,000 random questions where the question
file has 2,910; the fitting ones are commit e3e39262 of the POPE repository) give an F1 of 45.7 on
random without a word. raypipe refuses them. A ratio with nothing below its line is 0 and no error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raypipe.benchmark import ONE_WORD, VIDEO_LLAVA, Benchmark, make_question, without_suffix
from raypipe.errors import RequestError
from raypipe.eval_root import field, medium_path, read_json_lines
from raypipe.grading.answers import yes_or_no
from raypipe.grading.metrics import GradedTable, Metric, accuracies, proportion
from raypipe.grading.rules import ExactMatch
from raypipe.grading.statistics import Floats
from raypipe.records import MediumKind, MediumRef, Question

NAME = "pope"
QUESTIONS = "pope/llava_pope_test.jsonl"
CATEGORIES = ("adversarial", "popular", "random")
LABELS = {category: f"pope/coco/coco_pope_{category}.json" for category in CATEGORIES}
TP, FP, FN, N = range(4)  # "yes" is the positive answer
WIDTH = 4

Labels = dict[tuple[str, str], str]


def read_questions(eval_root: Path) -> list[Question]:
    """The question file with its labels.

    Raises:
        RequestError: a damaged row, or labels that are not those of these questions.
    """
    path = eval_root / QUESTIONS
    labels = {category: _read_labels(eval_root / name) for category, name in LABELS.items()}
    questions = []
    for number, row in read_json_lines(path):
        where = f"line {number}"
        category, prompt, image = (field(row, name, path, where) for name in ("category", "text", "image"))
        bare = without_suffix(prompt, ONE_WORD, path, where)
        label = labels.get(category, {}).pop((image, bare), None)
        if label is None:
            raise _disagreement(f"{path}, {where}: no label for {bare!r} on {image} ({category})")
        medium = MediumRef(MediumKind.IMAGE, medium_path("pope/val2014", image, path, where))
        row_id = field(row, "question_id", path, where)
        questions.append(make_question(NAME, row_id, medium, prompt, bare, label, category))
    for category, left in labels.items():
        if left:
            example = " on ".join(reversed(next(iter(left))))
            raise _disagreement(
                f"{eval_root / LABELS[category]} labels {len(left)} questions that {path.name} does not ask,"
                f" for example {example}"
            )
    return questions


def _read_labels(path: Path) -> Labels:
    labels: Labels = {}
    for number, row in read_json_lines(path):
        where = f"line {number}"
        image, text, label = (field(row, name, path, where) for name in ("image", "text", "label"))
        if label not in ("yes", "no"):
            raise RequestError(f"{path}, {where}: label {label!r} is neither yes nor no")
        if labels.setdefault((image, text), label) != label:
            raise RequestError(f"{path}, {where}: {text!r} on {image} has another label before")
    return labels


def _disagreement(message: str) -> RequestError:
    return RequestError(
        message,
        "the labels are not those of the question file; take coco_pope_*.json of commit e3e39262 of the "
        "POPE repository (3000 adversarial, 3000 popular, 2910 random)",
    )


def precision(counts: Floats) -> Floats:
    return _percent(counts[..., TP], counts[..., TP] + counts[..., FP])


def recall(counts: Floats) -> Floats:
    return _percent(counts[..., TP], counts[..., TP] + counts[..., FN])


def f1(counts: Floats) -> Floats:
    return _percent(2 * counts[..., TP], 2 * counts[..., TP] + counts[..., FP] + counts[..., FN])


def mean_f1(counts: Floats) -> Floats:
    """Mean over the categories, which lie side by side; one without an answer is left out."""
    each = np.stack(np.split(counts, counts.shape[-1] // WIDTH, axis=-1))
    return np.nanmean(np.where(each[..., N] > 0, f1(each), np.nan), axis=0)


def measure(table: GradedTable) -> list[Metric]:
    """``f1``, the mean of the categories' F1; ``accuracy``; and five metrics of each category."""
    answered = ~np.isnan(table.value)
    said_yes, is_yes = table.parsed == "yes", table.truth == "yes"
    columns = [said_yes & is_yes, said_yes & ~is_yes, ~said_yes & is_yes, answered]
    counts = np.stack(columns, axis=1).astype(np.float64) * answered[:, None]
    members = {category: table.category == category for category in table.categories()}
    side_by_side = np.concatenate([counts * member[:, None] for member in members.values()], axis=1)
    metrics = [Metric("f1", table.everything, answered, side_by_side, mean_f1), *accuracies(table)]
    yes = np.where(answered, said_yes, np.nan)
    for category, member in members.items():
        for name, formula in (("f1", f1), ("precision", precision), ("recall", recall)):
            metrics.append(Metric(f"{name}/{category}", member, member & answered, counts, formula))
        metrics.append(proportion(f"yes_ratio/{category}", yes, member))
    return metrics


def _percent(part: Floats, whole: Floats) -> Floats:
    return 100 * part / np.maximum(whole, 1)


BENCHMARK = Benchmark(
    name=NAME,
    title="POPE",
    media=MediumKind.IMAGE,
    folder="pope",
    files=(QUESTIONS, *LABELS.values()),
    read=read_questions,
    rule=ExactMatch(yes_or_no),
    measure=measure,
    primary="f1",
    published={"f1": 84.4},
    source="llava_pope_test.jsonl is in LLaVA's eval.zip (docs/Evaluation.md); coco/ is output/coco of "
    "AoiDragon/POPE at commit e3e39262, as later labels do not fit the questions; val2014 is COCO's",
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 85.9, "LLaVA-1.5-13B": 85.9},
)
