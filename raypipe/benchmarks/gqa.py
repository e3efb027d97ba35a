"""GQA test-dev, balanced: 12,578 compositional questions on 398 images.

Scorer: GQA's ``eval.py`` as patched in LLaVA (``scripts/convert_gqa_for_eval.py``, ``eval_gqa.py``): the
reply in lower case without its last full stop must equal the answer. ``binary`` and ``open`` split by
structural type (open: ``query``). Where raypipe differs: question file and ground truth are also
compared by image and wording; an unanswered question is counted as missing, while the official scorer
stops. Where the ground truth has them, accuracy is also given by semantic type, by number of steps and of
words, counted as the official scorer does. Validity, plausibility and distribution are not computed (the
first two are 0 for test-dev, whose choices file is not public).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypipe.benchmark import ONE_WORD, VIDEO_LLAVA, Benchmark, make_question, without_suffix
from raypipe.errors import RequestError
from raypipe.eval_root import field, first_present, medium_path, read_json, read_json_lines
from raypipe.grading.answers import short_answer
from raypipe.grading.metrics import GradedTable, Metric, accuracies, by_facet, proportion
from raypipe.grading.rules import ExactMatch
from raypipe.records import MediumKind, MediumRef, Question

NAME = "gqa"
QUESTIONS = "gqa/llava_gqa_testdev_balanced.jsonl"
TRUTH = (
    "gqa/data/questions1.2/testdev_balanced_questions.json",
    "gqa/data/testdev_balanced_questions.json",
)
OPEN_TYPE = "query"
NO_STEP = ("exist", "query: name", "choose name")  # what the official scorer does not count as a step


def read_questions(eval_root: Path) -> list[Question]:
    """The question file joined with the balanced questions of the ground truth.

    Raises:
        RequestError: a damaged row, or the two files do not hold the same questions.
    """
    path, truth_path = eval_root / QUESTIONS, first_present(eval_root, *TRUTH)
    truth = _read_truth(truth_path)
    asked = set()
    questions = []
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, prompt, image = (field(row, name, path, where) for name in ("question_id", "text", "image"))
        bare = without_suffix(prompt, ONE_WORD, path, where)
        if row_id not in truth:
            raise _disagreement(f"{path}, {where}: question {row_id} is not in {truth_path.name}")
        entry, at = truth[row_id], f"question {row_id}"
        wording, of_image = field(entry, "question", truth_path, at), field(entry, "imageId", truth_path, at)
        if _plain(wording) != _plain(bare) or of_image != Path(image).stem:
            raise _disagreement(
                f"question {row_id} is {bare!r} on {image} in {path.name} "
                f"and {wording!r} on {of_image} in {truth_path.name}"
            )
        asked.add(row_id)
        medium = MediumRef(MediumKind.IMAGE, medium_path("gqa/data/images", image, path, where))
        answer = field(entry, "answer", truth_path, at)
        category = _structural_type(entry, truth_path, at)
        tags = (*_tags(entry, truth_path, at), f"words={len(wording.split())}")
        questions.append(make_question(NAME, row_id, medium, prompt, bare, answer, category, tags=tags))
    unasked = truth.keys() - asked
    if unasked:
        raise _disagreement(
            f"{truth_path} holds {len(unasked)} balanced questions that {path.name} does not ask, "
            f"for example {min(unasked)}"
        )
    return questions


def _read_truth(path: Path) -> dict[str, dict[str, Any]]:
    """The balanced questions by id."""
    entries = read_json(path)
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise RequestError(f"{path} does not hold one object a question id")
    return {row_id: entry for row_id, entry in entries.items() if entry.get("isBalanced", True)}


def _structural_type(entry: dict[str, Any], path: Path, where: str) -> str:
    types = entry.get("types")
    return field(types if isinstance(types, dict) else {}, "structural", path, where)


def _tags(entry: dict[str, Any], path: Path, where: str) -> list[str]:
    """Semantic type and number of steps, where they are given."""
    tags = []
    if "semantic" in entry["types"]:
        tags.append(f"semantic={field(entry['types'], 'semantic', path, where)}")
    if "semantic" in entry:
        steps = entry["semantic"]
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise RequestError(f"{path}, {where}: 'semantic' is not a list of steps")
        told = (f"{field(step, 'operation', path, where)}: {step.get('argument')}" for step in steps)
        tags.append(f"steps={sum(not any(part in text for part in NO_STEP) for text in told)}")
    return tags


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _disagreement(message: str) -> RequestError:
    return RequestError(message, "take testdev_balanced_questions.json of GQA questions1.2")


def measure(table: GradedTable) -> list[Metric]:
    """``accuracy``, ``binary``, ``open``, and accuracy by structural and semantic type, steps and words."""
    is_open = table.category == OPEN_TYPE
    return [
        *accuracies(table),
        proportion("binary", table.value, ~is_open),
        proportion("open", table.value, is_open),
        *by_facet(table, "semantic", "steps", "words"),
    ]


BENCHMARK = Benchmark(
    name=NAME,
    title="GQA",
    media=MediumKind.IMAGE,
    folder="gqa",
    files=(QUESTIONS, TRUTH),
    read=read_questions,
    rule=ExactMatch(short_answer),
    measure=measure,
    primary="accuracy",
    source=(
        "llava_gqa_testdev_balanced.jsonl is in LLaVA's eval.zip; questions1.2.zip and images.zip are on "
        "https://cs.stanford.edu/people/dorarad/gqa/download.html"
    ),
    published={"accuracy": 60.3},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 62.0, "LLaVA-1.5-13B": 63.3},
)
