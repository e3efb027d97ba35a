"""LLaVA-Bench in the wild: 60 open questions on 24 images, in three categories (conv, detail, complex).

Questions: ``questions.jsonl``; ``context.jsonl`` describes each image for a judge that cannot see it and
``answers_gpt4.jsonl`` holds the reference answers. A judge marks reference and answer from 1 to 10.
Scorer: LLaVA ``llava/eval/summarize_gpt_review.py``: ``all`` is 100 times the mean mark of the answers
over that of the references, of means rounded to three digits, itself rounded to one; several reviews
of the same answers are averaged after that rounding, as the published 65.4 is (64.7, 65.3, 66.3).

Where raypipe differs: questions, references and reviews are joined by question id and compared by
content, while the reference pairs them by line; a review that the judge failed ([-1, -1]) has no value
and counts as missing beside the number of those read, while the reference averages the -1 in.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from raypipe.benchmark import VIDEO_LLAVA, Benchmark
from raypipe.errors import RequestError
from raypipe.eval_root import field, read_json_lines
from raypipe.formats.question_files import Truth, read_asked
from raypipe.grading.judging import by_marks
from raypipe.grading.reviews import review_metrics
from raypipe.records import MediumKind, Question
from raypipe.stored_verdicts.reviews import questions_of_reviews, read_reviews

NAME = "llava_bench"
FOLDER = "llava-bench-in-the-wild"
QUESTIONS, CONTEXT, REFERENCES = (
    f"{FOLDER}/{name}.jsonl" for name in ("questions", "context", "answers_gpt4")
)
SAME_RELEASE = f"take all of {FOLDER} from one release"


def read_questions(eval_root: Path) -> list[Question]:
    """Questions with the reference answer; ``extra`` has ``context`` and the reference's ``answer_id``.

    Raises:
        RequestError: a damaged row, an image without context, a question without reference answer, or
            reference answers to other questions.
    """
    path, contexts = eval_root / QUESTIONS, _read_contexts(eval_root / CONTEXT)
    references: Truth[tuple[str, Any, Any]] = Truth(eval_root / REFERENCES, SAME_RELEASE)
    for number, row in read_json_lines(references.path):
        where = f"line {number}"
        row_id, answer = (field(row, name, references.path, where) for name in ("question_id", "text"))
        references.add(row_id, (answer, row.get("prompt"), row.get("answer_id")), where)
    questions = []
    for asked in read_asked(path, f"{FOLDER}/images"):
        at = f"{path}, {asked.where}"
        answer, wording, answer_id = references.take(asked.row_id, at)
        if wording not in (None, asked.bare):
            raise references.disagreement(f"{at}: {references.path.name} has no answer to {asked.bare!r}")
        if asked.image not in contexts:
            raise references.disagreement(f"{at}: {asked.image} is not described in {CONTEXT}")
        extra = {"context": contexts[asked.image], "answer_id": answer_id}
        category = field(asked.row, "category", path, asked.where)
        questions.append(asked.question(NAME, answer, category, extra))
    references.expect_all_taken(path)
    return questions


def _read_contexts(path: Path) -> dict[str, str]:
    """What each image shows; several captions are lines of one text."""
    contexts: dict[str, str] = {}
    for number, row in read_json_lines(path):
        captions = row.get("caption")
        if not isinstance(captions, list):
            captions = [field(row, "caption", path, f"line {number}")]
        if not all(isinstance(caption, str) for caption in captions):
            raise RequestError(f"{path}, line {number}: field 'caption' is neither text nor a list of texts")
        contexts[field(row, "image", path, f"line {number}")] = "\n".join(captions)
    return contexts


BENCHMARK = Benchmark(
    name=NAME,
    title="LLaVA-Bench (in the wild)",
    media=MediumKind.IMAGE,
    folder=FOLDER,
    files=(QUESTIONS, CONTEXT, REFERENCES),
    read=read_questions,
    measure=review_metrics,
    primary="all",
    size=60,
    rubric="llava_bench",
    judged=by_marks,
    verdicts=read_reviews,
    named_by_verdicts=partial(questions_of_reviews, benchmark=NAME),
    source="The data set liuhaotian/llava-bench-in-the-wild on Hugging Face (questions, context, GPT-4's "
    f"answers and images); put its content into {FOLDER} of the eval root.",
    max_new_tokens=1024,
    pad=False,
    published={"all": 73.1},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 65.4, "LLaVA-1.5-13B": 72.5},
)
