"""TextVQA val (v0.5.1): 5,000 questions about the text in 3,166 images, asked with OCR tokens.

Scorer: LLaVA ``llava/eval/eval_textvqa.py`` and its ``m4c_evaluator.py``: leave-one-out soft accuracy, reply
and answers processed. Ids are image ids and several questions share one, so question file and ground
truth are joined by image id and wording, as in the reference. Where raypipe differs: an unanswered question
is missing, while the reference leaves it out unseen; a question file that lacks ground truth, OCR
line or questions is refused (without its OCR tokens LLaVA-1.5-13B scores 48.7 and not 61.3).
"""

from __future__ import annotations

from pathlib import Path

from raypipe.benchmark import ONE_WORD, VIDEO_LLAVA, Benchmark, make_question, without_suffix
from raypipe.errors import RequestError
from raypipe.eval_root import field, medium_path, read_json, read_json_lines
from raypipe.grading.metrics import accuracies
from raypipe.grading.soft_accuracy import processed_soft_match, ten_answers
from raypipe.records import MediumKind, MediumRef, Question

NAME = "textvqa"
QUESTIONS = "textvqa/llava_textvqa_val_v051_ocr.jsonl"
TRUTH = "textvqa/TextVQA_0.5.1_val.json"
OCR_LINE = "Reference OCR token:"

Key = tuple[str, str]  # image id and wording


def read_questions(eval_root: Path) -> list[Question]:
    """The question file joined with the ground truth.

    Raises:
        RequestError: a damaged row, or the two files do not hold the same questions.
    """
    path, truth_path = eval_root / QUESTIONS, eval_root / TRUTH
    truth = _read_truth(truth_path)
    asked = set()
    questions = []
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, prompt, image = (field(row, name, path, where) for name in ("question_id", "text", "image"))
        bare = _bare(prompt, path, where)
        key = (row_id, _plain(bare))
        if key not in truth or Path(image).stem != row_id:
            raise _disagreement(f"{path}, {where}: no answers to {bare!r} on {image} in {truth_path.name}")
        asked.add(key)
        medium = MediumRef(MediumKind.IMAGE, medium_path("textvqa/train_images", image, path, where))
        questions.append(make_question(NAME, row_id, medium, prompt, bare, truth[key]))
    unasked = truth.keys() - asked
    if unasked:
        example = " on ".join(reversed(min(unasked)))
        raise _disagreement(
            f"{truth_path} answers {len(unasked)} questions that {path.name} does not ask, "
            f"for example {example}"
        )
    return questions


def _read_truth(path: Path) -> dict[Key, str]:
    """The ten answers by image id and wording."""
    content = read_json(path)
    entries = content.get("data") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise RequestError(f"{path} does not hold a list of data", BENCHMARK.source)
    truth: dict[Key, str] = {}
    for number, entry in enumerate(entries, 1):
        where = f"entry {number}"
        if not isinstance(entry, dict):
            raise RequestError(f"{path}, {where}: not an object")
        image, wording = (field(entry, name, path, where) for name in ("image_id", "question"))
        answers = ten_answers(entry.get("answers"), f"{path}, {where}")
        if truth.setdefault((image, _plain(wording)), answers) != answers:
            raise RequestError(f"{path}, {where}: other answers to {wording!r} on {image} came before")
    return truth


def _bare(prompt: str, path: Path, where: str) -> str:
    """The first of a prompt's three lines."""
    bare, _, ocr = without_suffix(prompt, ONE_WORD, path, where).partition("\n")
    if not ocr.startswith(OCR_LINE) or "\n" in ocr:
        raise RequestError(f"{path}, {where}: the second line of the text is not {OCR_LINE!r}")
    return bare


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _disagreement(message: str) -> RequestError:
    return RequestError(message, "take TextVQA_0.5.1_val.json and LLaVA's val_v051 question file")


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
    source="questions: eval.zip of LLaVA 1.5's evaluation guide, to be unpacked into the eval root; "
    "TextVQA_0.5.1_val.json and train_val_images.zip: textvqa.org, into textvqa",
    published={"accuracy": 51.8},
    published_source=VIDEO_LLAVA,
    published_elsewhere={"LLaVA-1.5-7B": 58.2, "LLaVA-1.5-13B": 61.3},
)
