"""TextVQA val (v0.5.1): 5,000 questions about the text in 3,166 images, asked with OCR tokens.

Scorer: LLaVA ``llava/eval/eval_textvqa.py`` and its ``m4c_evaluator.py``: leave-one-out soft accuracy, reply
and answers processed. Ids are image ids and several questions share one, so question file and ground
truth are joined by image id and wording, as in the reference. Where raypipe differs: an unanswered question
is missing, while the reference leaves it out unseen; a question file that lacks ground truth, OCR
line or questions is refused (without its OCR tokens LLaVA-1.5-13B scores 48.7 and not 61.3).
"""

from __future__ import annotations

from pathlib import Path

from raypipe.benchmark import ONE_WORD, VIDEO_LLAVA, Benchmark, make_question
from raypipe.errors import RequestError
from raypipe.eval_root import field, read_json_list
from raypipe.formats.question_files import Truth, plain, read_asked
from raypipe.grading.metrics import accuracies
from raypipe.grading.soft_accuracy import processed_soft_match, ten_answers
from raypipe.records import MediumKind, Question

NAME = "textvqa"
QUESTIONS = "textvqa/llava_textvqa_val_v051_ocr.jsonl"
TRUTH = "textvqa/TextVQA_0.5.1_val.json"
OCR_LINE = "Reference OCR token:"


def read_questions(eval_root: Path) -> list[Question]:
    """The question file joined with the ground truth; a prompt is question, OCR line and instruction.

    Raises:
        RequestError: a damaged row, or the two files do not hold the same questions.
    """
    path = eval_root / QUESTIONS
    truth = _read_truth(eval_root / TRUTH)
    questions = []
    for asked in read_asked(path, "textvqa/train_images", ONE_WORD):
        bare, _, ocr = asked.bare.partition("\n")
        if not ocr.startswith(OCR_LINE) or "\n" in ocr:
            raise RequestError(f"{path}, {asked.where}: the second line of the text is not {OCR_LINE!r}")
        if Path(asked.image).stem != asked.row_id:
            raise truth.disagreement(f"{path}, {asked.where}: {asked.image} is not image {asked.row_id!r}")
        answers = truth.take((asked.row_id, plain(bare)), f"{path}, {asked.where}")
        questions.append(make_question(NAME, asked.row_id, asked.medium, asked.prompt, bare, answers))
    truth.expect_all_taken(path)
    return questions


def _read_truth(path: Path) -> Truth[str]:
    """The ten answers by image id and wording."""
    truth: Truth[str] = Truth(path, "take TextVQA_0.5.1_val.json and LLaVA's val_v051 question file")
    for where, entry in read_json_list(path, "data"):
        image, wording = (field(entry, name, path, where) for name in ("image_id", "question"))
        truth.add((image, plain(wording)), ten_answers(entry.get("answers"), f"{path}, {where}"), where)
    return truth


BENCHMARK = Benchmark(
    name=NAME,
    title="TextVQA",
    media=MediumKind.IMAGE,
    folder="textvqa",
    files=(QUESTIONS, TRUTH),
    read=read_questions,
    rule=processed_soft_match,
    measure=accuracies,
    primary="accuracy",
    size=5_000,
    source="questions: eval.zip of LLaVA 1.5's evaluation guide, to be unpacked into the eval root; "
    "TextVQA_0.5.1_val.json and train_val_images.zip: textvqa.org, into textvqa",
    published={"accuracy": 51.8},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 58.2, "LLaVA-1.5-13B": 61.3},
)
