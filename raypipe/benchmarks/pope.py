"""POPE on COCO val2014: is an object in the image? 8,910 questions in three ways of picking absent objects.

Scorer: LLaVA ``llava/eval/eval_pope.py`` (after RUCAIBox/POPE). Published is the mean of the three F1.
Where raypipe differs: labels are joined by category, image and question. The reference pairs answers
with label lines by position, so that today's label files (3,000 random questions where the question
file has 2,910; the fitting ones are commit e3e39262 of the POPE repository) give an F1 of 45.7 on
random without a word. raypipe refuses them.
"""

from __future__ import annotations

from pathlib import Path

from raypipe.benchmark import ONE_WORD, VIDEO_LLAVA, Benchmark
from raypipe.errors import RequestError
from raypipe.eval_root import field, read_json_lines
from raypipe.formats.question_files import Truth, read_asked
from raypipe.grading.answers import yes_or_no
from raypipe.grading.binary import detection_metrics
from raypipe.grading.rules import ExactMatch
from raypipe.records import MediumKind, Question

NAME = "pope"
QUESTIONS = "pope/llava_pope_test.jsonl"
LABELS = {name: f"pope/coco/coco_pope_{name}.json" for name in ("adversarial", "popular", "random")}
OTHER_LABELS = (
    "the labels are not those of the question file; take coco_pope_*.json of commit e3e39262 of the "
    "POPE repository (3000 adversarial, 3000 popular, 2910 random)"
)


def read_questions(eval_root: Path) -> list[Question]:
    """The question file with its labels.

    Raises:
        RequestError: a damaged row, or labels that are not those of these questions.
    """
    path = eval_root / QUESTIONS
    labels = {category: _read_labels(eval_root / name) for category, name in LABELS.items()}
    questions = []
    for asked in read_asked(path, "pope/val2014", ONE_WORD):
        category = field(asked.row, "category", path, asked.where)
        if category not in labels:
            raise RequestError(f"{path}, {asked.where}: {category[:60]!r} is none of {', '.join(labels)}")
        label = labels[category].take((asked.image, asked.bare), f"{path}, {asked.where}")
        questions.append(asked.question(NAME, label, category))
    for left in labels.values():
        left.expect_all_taken(path)
    return questions


def _read_labels(path: Path) -> Truth[str]:
    """The labels of a category by image and question."""
    labels: Truth[str] = Truth(path, OTHER_LABELS)
    for number, row in read_json_lines(path):
        where = f"line {number}"
        image, text, label = (field(row, name, path, where) for name in ("image", "text", "label"))
        if label not in ("yes", "no"):
            raise RequestError(f"{path}, {where}: label {label[:60]!r} is neither yes nor no")
        labels.add((image, text), label, where)
    return labels


BENCHMARK = Benchmark(
    name=NAME,
    title="POPE",
    media=MediumKind.IMAGE,
    folder="pope",
    files=(QUESTIONS, *LABELS.values()),
    read=read_questions,
    rule=ExactMatch(yes_or_no),
    measure=detection_metrics,
    primary="f1",
    size=8_910,
    published={"f1": 84.4},
    source="llava_pope_test.jsonl is in LLaVA's eval.zip (docs/Evaluation.md); coco/ is output/coco of "
    "AoiDragon/POPE at commit e3e39262, as later labels do not fit the questions; val2014 is COCO's",
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 85.9, "LLaVA-1.5-13B": 85.9},
)
