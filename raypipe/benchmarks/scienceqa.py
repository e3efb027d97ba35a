"""ScienceQA test: 4,241 multiple-choice questions, 2,017 of them with an image.

Scorer: LLaVA ``llava/eval/eval_science_qa.py``. Published is the accuracy on the questions with an image.
A reply in which no option can be read is wrong, as officially, and ``failed`` says how many percent
that are. The facets are those of ScienceQA's ``evaluate_acc.py``, where problems.json has them: subject,
topic, grade (1-6, 7-12) and context (``text``: there is a hint; ``image``; ``none``: neither; a question may
have both). Where raypipe differs: whether a question has an image is taken from the question and not from the
stored prompt; an unanswered question is missing, while the reference counts it wrong; a letter
past the last option is wrong, and so is a reply that names none, while older official code (ScienceQA's own,
and LLaVA's first) drew an option at random for it: its scores are a little higher and differ each time.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from raypipe.benchmark import OPTION_LETTER, VIDEO_LLAVA, Benchmark, make_question
from raypipe.errors import RequestError
from raypipe.eval_root import field, medium_path, read_json, read_json_rows
from raypipe.grading.answers import LETTERS, option_letter
from raypipe.grading.metrics import GradedTable, Metric, by_facet, proportion, unread
from raypipe.grading.rules import ExactMatch
from raypipe.records import MediumKind, MediumRef, Question

NAME = "scienceqa"
QUESTIONS = "scienceqa/llava_test_CQM-A.json"
PROBLEMS = "scienceqa/problems.json"
SPLITS = "scienceqa/pid_splits.json"
GRADE = re.compile("grade([0-9]{1,2})")


def read_questions(eval_root: Path) -> list[Question]:
    """The test split's questions with their right options; the category is the subject, if given.

    Tags are ``subject``, ``topic``, ``grade`` and ``context``.

    Raises:
        RequestError: a damaged row, or a question file that is not the test split.
    """
    path, problems_path = eval_root / QUESTIONS, eval_root / PROBLEMS
    test_ids = _read_split(eval_root / SPLITS)
    problems = read_json(problems_path)
    if not isinstance(problems, dict):
        raise RequestError(f"{problems_path} does not hold one object a problem id")
    questions = []
    for number, row in enumerate(read_json_rows(path), 1):
        where = f"row {number}"
        row_id = field(row, "id", path, where)
        if row_id not in test_ids:
            raise RequestError(f"{path}, {where}: {row_id!r} is not in the test split of {SPLITS}")
        test_ids.remove(row_id)
        problem: Any = problems.get(row_id)
        bare = _asked(row, path, where)
        medium = None
        if row.get("image"):
            name = medium_path("scienceqa/images/test", field(row, "image", path, where), path, where)
            medium = MediumRef(MediumKind.IMAGE, name)
        letter = _right_letter(problem, problems_path, row_id)
        tags = _tags(problem, bool(medium), problems_path, f"problem {row_id!r}")
        subject = str(problem.get("subject") or "")
        questions.append(
            make_question(NAME, row_id, medium, bare + OPTION_LETTER, bare, letter, subject, tags=tags)
        )
    if test_ids:
        raise RequestError(
            f"{path} lacks {len(test_ids)} questions of the test split, for example {min(test_ids)!r}",
            "take llava_test_CQM-A.json and pid_splits.json from the same release",
        )
    return questions


def _read_split(path: Path) -> set[str]:
    splits = read_json(path)
    if not isinstance(splits, dict) or not isinstance(splits.get("test"), list):
        raise RequestError(f"{path} does not hold a 'test' split")
    return {str(row_id) for row_id in splits["test"]}


def _asked(row: dict[str, Any], path: Path, where: str) -> str:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        raise RequestError(f"{path}, {where}: no conversation")
    return field(turns[0], "value", path, where).replace("<image>", "").strip()


def _right_letter(problem: Any, path: Path, row_id: str) -> str:
    choices = problem.get("choices") if isinstance(problem, dict) else None
    index = problem.get("answer") if isinstance(problem, dict) else None
    if not isinstance(choices, list) or not isinstance(index, int) or isinstance(index, bool):
        raise RequestError(f"{path}: problem {row_id!r} lacks choices or an answer")
    if not 0 <= index < min(len(choices), len(LETTERS)):
        raise RequestError(f"{path}: the answer of problem {row_id!r} is not one of its choices")
    return LETTERS[index]


def _tags(problem: dict[str, Any], illustrated: bool, path: Path, where: str) -> tuple[str, ...]:
    tags = [
        f"{name}={field(problem, name, path, where)}" for name in ("subject", "topic") if problem.get(name)
    ]
    if problem.get("grade"):
        grade = GRADE.fullmatch(field(problem, "grade", path, where))
        if grade is None or not 1 <= int(grade[1]) <= 12:
            raise RequestError(
                f"{path}, {where}: the grade is not grade1 to grade12: {problem['grade']!r:.60}"
            )
        tags.append("grade=1-6" if int(grade[1]) <= 6 else "grade=7-12")
    if illustrated:
        tags.append("context=image")
    if "hint" in problem:
        hinted = bool(problem["hint"]) and bool(field(problem, "hint", path, where))
        tags += ["context=text"] if hinted else [] if illustrated else ["context=none"]
    return tuple(tags)


def measure(table: GradedTable) -> list[Metric]:
    """``img_accuracy`` (with an image), ``accuracy`` (all, and by facet), ``failed`` (no option read)."""
    return [
        proportion("img_accuracy", table.value, table.illustrated),
        proportion("accuracy", table.value, table.everything),
        *by_facet(table, "subject", "context", "grade", "topic"),
        unread(table),
    ]


BENCHMARK = Benchmark(
    name=NAME,
    title="ScienceQA",
    media=MediumKind.IMAGE,
    folder="scienceqa",
    files=(QUESTIONS, PROBLEMS, SPLITS),
    read=read_questions,
    rule=ExactMatch(option_letter),
    measure=measure,
    primary="img_accuracy",
    source=(
        "llava_test_CQM-A.json is in LLaVA's eval.zip; problems.json, pid_splits.json and the images of the "
        "test split are those of ScienceQA (lupantech/ScienceQA, data/scienceqa)"
    ),
    max_new_tokens=1024,
    pad=False,
    published={"img_accuracy": 66.4},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 66.8, "LLaVA-1.5-13B": 71.6},
)
