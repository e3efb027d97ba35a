"""Made-up files of VQAv2, TextVQA and VizWiz, in the reference's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raypipe.records import Question
from tests.support.case import Case
from tests.support.eval_root_files import ONE_WORD, write_json, write_lines

BLIND = "\nWhen the provided information is insufficient, respond with 'Unanswerable'." + ONE_WORD

# Question id, image number, question, ten answers, their kind and the kind of question.
VQA_ROWS: list[tuple[int, int, str, list[str], str, str]] = [
    (262144005, 262144, "Is it raining?", ["yes"] * 10, "yes/no", "is it"),
    (262144006, 262144, "How many dogs?", ["two"] * 8 + ["2", "3"], "number", "how many"),
    (
        393225000,
        393225,
        "What is he holding?",
        ["a kite"] * 7 + ["kite", "string", "toy"],
        "other",
        "what is",
    ),
]
TEXT_ROWS: list[tuple[str, str, str, list[str]]] = [
    ("0a1b", "What is  written on the sign?", "STOP, 4-WAY", ["stop"] * 9 + ["stop 4-way"]),
    ("0a1b", "What number is shown?", "STOP, 4-WAY", ["4"] * 10),
    ("9f8e", "Who wrote it?", "", ["unanswerable"] * 10),
]
BLIND_ROWS: list[tuple[str, str, list[str], str, int]] = [
    ("VizWiz_val_00000000.jpg", "What is this?", ["soup can"] * 6 + ["soup"] * 4, "other", 1),
    ("VizWiz_val_00000001.jpg", "Ok. Is it on?", ["no"] * 10, "yes/no", 1),
    ("VizWiz_val_00000002.jpg", "Which one?", ["unanswerable"] * 10, "unanswerable", 0),
]
UNASKED_ID = 999


def most_given(question: Question) -> str:
    """The first of the ten answers, which most of them are."""
    answers: list[str] = json.loads(question.reference)
    return answers[0]


def numbered(answers: list[str]) -> list[dict[str, Any]]:
    return [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers, 1)]


def vqav2_test(root: Path, name: str = "vqav2") -> None:
    rows = [
        {
            "question_id": row_id,
            "image": f"COCO_test2015_{image:012d}.jpg",
            "text": text + ONE_WORD,
            "category": "default",
        }
        for row_id, image, text, *_ in VQA_ROWS
    ]
    write_lines(root / "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl", rows)
    unasked = {**rows[0], "question_id": UNASKED_ID, "text": f"Is it snowing?{ONE_WORD}"}
    write_lines(root / "vqav2/llava_vqav2_mscoco_test2015.jsonl", [rows[2], unasked, rows[0], rows[1]])


def vqav2_val(root: Path, name: str = "vqav2") -> None:
    questions = [
        {"image_id": image, "question": text, "question_id": row_id} for row_id, image, text, *_ in VQA_ROWS
    ]
    annotations = [
        {
            "question_type": question_type,
            "multiple_choice_answer": answers[0],
            "answers": numbered(answers),
            "image_id": image,
            "answer_type": answer_type,
            "question_id": row_id,
        }
        for row_id, image, _, answers, answer_type, question_type in reversed(VQA_ROWS)
    ]
    write_json(root / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    write_json(root / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": annotations})


def textvqa(root: Path, name: str = "textvqa") -> None:
    write_lines(
        root / "textvqa/llava_textvqa_val_v051_ocr.jsonl",
        [
            {
                "question_id": image,
                "image": f"{image}.jpg",
                "text": f"{text}\nReference OCR token: {tokens}{ONE_WORD}",
                "category": "default",
            }
            for image, text, tokens, _ in TEXT_ROWS
        ],
    )
    entries = [
        {"question_id": number, "question": text.lower(), "image_id": image, "answers": answers}
        for number, (image, text, _, answers) in enumerate(reversed(TEXT_ROWS), 34602)
    ]
    write_json(root / "textvqa/TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": entries})


def vizwiz_test(root: Path, name: str = "vizwiz") -> None:
    write_lines(
        root / "vizwiz/llava_test.jsonl",
        [
            {"question_id": number, "image": image.replace("val", "test"), "text": text + BLIND}
            for number, (image, text, *_) in enumerate(BLIND_ROWS)
        ],
    )


def vizwiz_val(root: Path, name: str = "vizwiz") -> None:
    rows = [
        {
            "image": image,
            "question": text,
            "answers": [{"answer": a, "answer_confidence": "maybe"} for a in answers],
            "answer_type": kind,
            "answerable": answerable,
        }
        for image, text, answers, kind, answerable in BLIND_ROWS
    ]
    write_json(root / "vizwiz/val.json", rows)


CASES: dict[str, Case] = {
    "vqav2:test-dev2015": Case(vqav2_test, f"Is it raining?{ONE_WORD}", ""),
    "vqav2:val2014": Case(
        vqav2_val, f"Is it raining?{ONE_WORD}", json.dumps(["yes"] * 10), wrong="no", right=most_given
    ),
    "textvqa": Case(
        textvqa,
        f"What is  written on the sign?\nReference OCR token: STOP, 4-WAY{ONE_WORD}",
        json.dumps(["stop"] * 9 + ["stop 4-way"]),
        wrong="go",
        right=most_given,
    ),
    "vizwiz:test": Case(vizwiz_test, f"What is this?{BLIND}", ""),
    "vizwiz:val": Case(
        vizwiz_val,
        f"What is this?{BLIND}",
        json.dumps(["soup can"] * 6 + ["soup"] * 4),
        wrong="unanswerable",
        right=most_given,
    ),
}
