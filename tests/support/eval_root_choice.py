"""Made-up files of MMBench, SEED-Bench and MME, in the reference's layout."""

from __future__ import annotations

import base64
import csv
import io
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.case import Case
from tests.support.clips import picture
from tests.support.eval_root_files import ONE_WORD, write_json, write_lines

OPTION_LETTER = "\nAnswer with the option's letter from the given choices directly."
MMBENCH_FILES = {
    "20230712": "mmbench_dev_20230712.tsv",
    "en_20231003": "mmbench_dev_en_20231003.tsv",
    "cn": "mmbench_dev_cn_20231003.tsv",
}
MMBENCH_COLUMNS = (
    *("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"),
    *("source", "l2-category", "comment", "split"),
)
MME_ROWS = [
    ("existence/001.jpg", "Is there a kite in the image?", " ", "Yes"),
    ("existence/002.jpg", "Is there a pan in the image?", "  ", "Yes"),  # two spaces in the release
    ("existence/001.jpg", "Is there a boat in the image?", " ", "No"),
    ("artwork/images/9.jpg", "Is this by Ana?", " ", "No"),
    ("artwork/images/9.jpg", "Is this a still life?", " ", "Yes"),
    ("existence/002.jpg", "Is there a cup in the image?", " ", "No"),
    ("code_reasoning/1.png", "Is a list shown?", " ", "Yes"),
    ("code_reasoning/1.png", "Is a loop shown?", " ", "No"),
]
SEED_ROWS: list[tuple[Any, str, int, str, tuple[str, str, str, str], str]] = [
    ("7", "image", 1, "What is shown?", ("a pan", "a cup", "a kite", "a boat"), "C"),
    ("0008", "image", 2, "How many cups are there?", ("1", "2", "3", "4"), "A"),
    ("v12", "video", 10, "What is done?", ("pouring", "cutting", "throwing", "nothing"), "B"),
]


def mmbench_rows() -> list[dict[str, str]]:
    """Question 3 with two options and 5 with three, each in all rotations; rotations out of order."""
    base = [
        (3, "Which sinks?", 'A "test":\nread it.', ["iron", "cork"], 0, "science", "reasoning"),
        (5, "What is it?", "", ["a kite", "a pan", "None of these"], 1, "objects", "perception"),
    ]
    rows = []
    for index, question, hint, options, right, category, level in base:
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            cells = dict.fromkeys(MMBENCH_COLUMNS, "")
            cells |= {"index": str(index + turn * 1_000_000), "question": question, "hint": hint}
            cells |= dict(zip("ABCD", turned, strict=False))
            cells |= {"answer": "ABCD"[turned.index(options[right])], "category": category, "split": "dev"}
            cells |= {"image": drawn(index), "l2-category": level}
            rows.append(cells)
    return [rows[0], rows[2], rows[1], rows[4], rows[3]]


def drawn(number: int) -> str:
    """A small PNG picture that shows a number, as base64 text."""
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_table(path: Path, rows: list[dict[str, str]], line_end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator=line_end)
        writer.writeheader()
        writer.writerows(rows)


def mmbench(root: Path, name: str, split: str) -> None:
    write_table(root / "mmbench" / MMBENCH_FILES[split], mmbench_rows())


def mme(root: Path, name: str = "mme") -> None:
    write_lines(
        root / "MME/llava_mme.jsonl",
        [
            {"question_id": image, "image": image, "text": text + ONE_WORD, "category": image.split("/")[0]}
            for image, text, _, _ in MME_ROWS
        ],
    )
    for image in {row[0] for row in MME_ROWS}:
        task, *inner, name = image.split("/")
        folder = root / "MME/MME_Benchmark_release_version" / task
        folder = folder / "questions_answers_YN" if inner else folder
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{text}{gap}Please answer yes or no.\t{answer}\n"
            for of, text, gap, answer in reversed(MME_ROWS)
            if of == image
        ]
        (folder / name).with_suffix(".txt").write_text("".join(lines))


def seed_bench(root: Path, name: str = "seed_bench") -> None:
    questions, asked = [], []
    for row_id, kind, number, question, choices, answer in SEED_ROWS:
        entry = {"question_id": row_id, "question_type_id": number, "data_type": kind, "question": question}
        entry |= {f"choice_{k}": choice for k, choice in zip("abcd", choices, strict=True)}
        questions.append({**entry, "answer": answer, "data_id": f"data/{row_id}"})
        options = "".join(f"\n{k}. {choice}" for k, choice in zip("ABCD", choices, strict=True))
        folder = f"SEED-Bench-{'image' if kind == 'image' else 'video-image'}"
        row = {"question_id": row_id, "image": f"{folder}/{number}_{row_id}.png", "category": kind}
        asked.append({**row, "text": question + options + OPTION_LETTER})
    asked[1]["question_id"] = 8  # the same number, written otherwise
    types = {"Scene": 1, "Counting": 2, "Action Recognition": 10}
    write_json(root / "seed_bench/SEED-Bench.json", {"question_type": types, "questions": questions})
    write_lines(root / "seed_bench/llava-seed-bench.jsonl", [asked[2], asked[0], asked[1]])


def _mmbench_case(split: str) -> Case:
    suffix = "\n请直接回答选项字母。" if split == "cn" else OPTION_LETTER
    prompt = f'A "test":\nread it.\nWhich sinks?\nA. iron\nB. cork{suffix}'
    return Case(partial(mmbench, split=split), prompt, "A", "B")


CASES: dict[str, Case] = {
    **{f"mmbench:{split}": _mmbench_case(split) for split in MMBENCH_FILES},
    "mme": Case(mme, f"Is there a kite in the image?{ONE_WORD}", "yes", "It is not.", full=400.0),
    "seed_bench": Case(
        seed_bench,
        f"What is done?\nA. pouring\nB. cutting\nC. throwing\nD. nothing{OPTION_LETTER}",
        "B",
        "B.",
    ),
}
