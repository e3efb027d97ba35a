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

from pathlib import Path

from raypipe.benchmark import OPTION_LETTER, VIDEO_LLAVA, Benchmark, make_question
from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, medium_path, read_json_rows
from raypipe.formats.science_problems import Problems
from raypipe.grading.answers import option_letter
from raypipe.grading.metrics import GradedTable, Metric, by_facet, proportion, unread
from raypipe.grading.rules import ExactMatch
from raypipe.records import MediumKind, MediumRef, Question

NAME = "scienceqa"
QUESTIONS, PROBLEMS, SPLITS = (
    f"scienceqa/{name}.json" for name in ("llava_test_CQM-A", "problems", "pid_splits")
)


def read_questions(eval_root: Path) -> list[Question]:
    """The test split's questions with their right options; the category is the subject, if given.

    Raises:
        RequestError: a damaged row, or a question file that is not the test split.
    """
    path, problems = eval_root / QUESTIONS, Problems(eval_root / PROBLEMS, eval_root / SPLITS)
    questions = []
    for number, row in enumerate(read_json_rows(path), 1):
        where = f"row {number}"
        row_id, medium = field(row, "id", path, where), None
        if row.get("image"):
            name = medium_path("scienceqa/images/test", field(row, "image", path, where), path, where)
            medium = MediumRef(MediumKind.IMAGE, name)
        problem = problems.take(row_id, medium is not None, f"{path}, {where}")
        bare, tags = _asked(row, path, where), problem.tags
        asked = row_id, medium, bare + OPTION_LETTER, bare
        questions.append(make_question(NAME, *asked, problem.letter, problem.subject, tags=tags))
    problems.expect_all_taken(path)
    return questions


def _asked(row: Row, path: Path, where: str) -> str:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        raise RequestError(f"{path}, {where}: no conversation")
    return field(turns[0], "value", path, where).replace("<image>", "").strip()


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
    size=4_241,
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
