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

from raypipe.benchmark import ONE_WORD, VIDEO_LLAVA, Benchmark
from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, first_present, read_json_objects
from raypipe.formats.question_files import Truth, plain, read_asked
from raypipe.grading.answers import short_answer
from raypipe.grading.compositional import compositional_metrics, steps_counted
from raypipe.grading.rules import ExactMatch
from raypipe.records import MediumKind, Question

NAME = "gqa"
QUESTIONS = "gqa/llava_gqa_testdev_balanced.jsonl"
TRUTH = (
    "gqa/data/questions1.2/testdev_balanced_questions.json",
    "gqa/data/testdev_balanced_questions.json",
)


def read_questions(eval_root: Path) -> list[Question]:
    """The question file joined with the balanced questions of the ground truth.

    Raises:
        RequestError: a damaged row, or the two files do not hold the same questions.
    """
    path, truth_path = eval_root / QUESTIONS, first_present(eval_root, *TRUTH)
    truth: Truth[Row] = Truth(truth_path, "take testdev_balanced_questions.json of GQA questions1.2")
    for row_id, entry in read_json_objects(truth_path).items():
        if entry.get("isBalanced", True):
            truth.add(row_id, entry, row_id)
    questions = []
    for asked in read_asked(path, "gqa/data/images", ONE_WORD):
        entry, at = truth.take(asked.row_id, f"{path}, {asked.where}"), f"question {asked.row_id}"
        wording, image, answer = (field(entry, k, truth_path, at) for k in ("question", "imageId", "answer"))
        if plain(wording) != plain(asked.bare) or image != Path(asked.image).stem:
            raise truth.disagreement(
                f"{at} is {asked.bare!r} on {asked.image} in {path.name} "
                f"and {wording!r} on {image} in {truth_path.name}"
            )
        category, tags = _types(entry, truth_path, at)
        tags = (*tags, f"words={len(wording.split())}")
        questions.append(asked.question(NAME, answer, category, tags=tags))
    truth.expect_all_taken(path)
    return questions


def _types(entry: Row, path: Path, where: str) -> tuple[str, tuple[str, ...]]:
    """Structural type; semantic type and number of steps as tags, where they are given."""
    types = entry.get("types") if isinstance(entry.get("types"), dict) else {}
    structural, tags = field(types or {}, "structural", path, where), []
    if types and "semantic" in types:
        tags.append(f"semantic={field(types, 'semantic', path, where)}")
    if "semantic" in entry:
        steps = entry["semantic"]
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise RequestError(f"{path}, {where}: 'semantic' is not a list of steps")
        told = (f"{field(step, 'operation', path, where)}: {step.get('argument')}" for step in steps)
        tags.append(f"steps={steps_counted(told)}")
    return structural, tuple(tags)


BENCHMARK = Benchmark(
    name=NAME,
    title="GQA",
    media=MediumKind.IMAGE,
    folder="gqa",
    files=(QUESTIONS, TRUTH),
    read=read_questions,
    rule=ExactMatch(short_answer),
    measure=compositional_metrics,
    primary="accuracy",
    size=12_578,
    source=(
        "llava_gqa_testdev_balanced.jsonl is in LLaVA's eval.zip; questions1.2.zip and images.zip are on "
        "https://cs.stanford.edu/people/dorarad/gqa/download.html"
    ),
    published={"accuracy": 60.3},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 62.0, "LLaVA-1.5-13B": 63.3},
)
