"""Made-up files of the video QAs, POPE, GQA and ScienceQA, in the reference's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ONE_WORD = "\nAnswer the question using a single word or phrase."
VIDEO_FOLDERS = {
    "msvd_qa": ("MSVD_Zero_Shot_QA", "videos", ""),
    "msrvtt_qa": ("MSRVTT_Zero_Shot_QA", "videos/all", ""),
    "tgif_qa": ("TGIF_Zero_Shot_QA", "mp4", ""),
    "activitynet_qa": ("Activitynet_Zero_Shot_QA", "all_test", "v_"),
}
POPE_ROWS = [
    ("adversarial", "kite.jpg", "Is there a kite in the image?", "yes"),
    ("adversarial", "kite.jpg", "Is there a boat in the image?", "no"),
    ("popular", "kite.jpg", "Is there a person in the image?", "no"),
    ("popular", "cook.jpg", "Is there a person in the image?", "yes"),
    ("random", "cook.jpg", "Is there a pan in the image?", "yes"),
]
GQA_ROWS = [
    ("201", "n1.jpg", "Is it overcast?", "no", "verify"),
    ("202", "n1.jpg", "What is the boy holding?", "kite", "query"),
    ("203", "n2.jpg", "Is the pan left or right of the cup?", "left", "choose"),
]


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def video_qa(root: Path, name: str) -> None:
    folder, videos, prefix = VIDEO_FOLDERS[name]
    place = root / "GPT_Zero_Shot_QA" / folder
    questions = [("v_a_1", "a", "what is he doing"), ("v_a_2", "a", "who runs"), ("v_b_1", "b", "what color")]
    answers = [("v_b_1", "red", 4), ("v_a_2", "man", 3), ("v_a_1", "running", 3)]  # another order, on purpose
    write_json(
        place / "test_q.json",
        [{"question_id": i, "video_name": v, "question": q} for i, v, q in questions],
    )
    write_json(place / "test_a.json", [{"question_id": i, "answer": a, "type": t} for i, a, t in answers])
    (place / videos).mkdir(parents=True)
    (place / videos / f"{prefix}a.mkv").write_bytes(b"")


def pope(root: Path, name: str = "pope") -> None:
    write_lines(
        root / "pope/llava_pope_test.jsonl",
        [
            {"question_id": number, "image": image, "text": text + ONE_WORD, "category": category}
            for number, (category, image, text, _) in enumerate(POPE_ROWS, 1)
        ],
    )
    for category in ("adversarial", "popular", "random"):
        rows = [
            {"question_id": number, "image": image, "text": text, "label": label}
            for number, (of, image, text, label) in enumerate(reversed(POPE_ROWS), 1)
            if of == category
        ]
        write_lines(root / f"pope/coco/coco_pope_{category}.json", rows)


def gqa(root: Path, name: str = "gqa") -> None:
    write_lines(
        root / "gqa/llava_gqa_testdev_balanced.jsonl",
        [
            {"question_id": i, "image": image, "text": text + ONE_WORD, "category": "default"}
            for i, image, text, _, _ in GQA_ROWS
        ],
    )
    truth = {
        i: {
            "question": text,
            "answer": answer,
            "imageId": image.removesuffix(".jpg"),
            "isBalanced": True,
            "types": {"structural": kind, "semantic": "rel" if kind == "query" else "attr"},
            "semantic": [
                {"operation": "select", "argument": "thing (7)"},
                {"operation": kind, "argument": "name" if kind == "query" else "side"},
            ],
        }
        for i, image, text, answer, kind in GQA_ROWS
    }
    truth["999"] = {**truth["201"], "isBalanced": False}
    write_json(root / "gqa/data/questions1.2/testdev_balanced_questions.json", truth)


def scienceqa(root: Path, name: str = "scienceqa") -> None:
    write_json(
        root / "scienceqa/llava_test_CQM-A.json",
        [
            {"id": "4", "conversations": [{"from": "human", "value": "Which sinks?\nA. cork\nB. iron"}]},
            {
                "id": "5",
                "image": "5/image.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhich is red?\nA. the cup\nB. the pan"}
                ],
            },
        ],
    )
    write_json(
        root / "scienceqa/problems.json",
        {
            "4": {
                "choices": ["cork", "iron"],
                "answer": 1,
                "hint": "Some things sink.",
                "subject": "natural science",
                "topic": "physics",
                "grade": "grade2",
            },
            "5": {
                "choices": ["the cup", "the pan"],
                "answer": 0,
                "hint": "",
                "subject": "social science",
                "topic": "economics",
                "grade": "grade11",
            },
        },
    )
    write_json(root / "scienceqa/pid_splits.json", {"train": ["1"], "test": ["4", "5"]})
