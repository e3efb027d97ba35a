"""Choice questions over the real files, against the published scores; see tests.support."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import PurePosixPath

import openpyxl
import pytest

from raypipe import benchmark as benchmarks
from raypipe.report.score import read_replies, score_answers
from tests.support import reference_data

MODEL = "llava-v1.5-13b"


@pytest.fixture(scope="module")
def eval_root():
    return reference_data("golden") / "eval"


@pytest.fixture(scope="module")
def mmbench_answers(eval_root):
    return eval_root / f"mmbench/answers/mmbench_dev_20230712/{MODEL}.jsonl"


def test_mmbench(eval_root, mmbench_answers):
    found = score_answers("mmbench", eval_root, mmbench_answers)
    assert found["metrics"]["circular"] == pytest.approx(100 * 796 / 1176)
    assert found["metrics"]["vanilla"] == pytest.approx(100 * 887 / 1176)
    assert found["metrics"]["failed"] == 0
    assert (found["n"], found["missing"], found["duplicate"], found["extra"]) == (4377, 0, 0, 0)
    published = benchmarks.load("mmbench").published_elsewhere["LLaVA-1.5-13B"]
    assert round(found["metrics"][found["primary"]], 1) == published


def test_mmbench_is_asked_word_for_word(eval_root, mmbench_answers):
    rows = [json.loads(line) for line in mmbench_answers.read_text().splitlines()]
    asked = {str(row["question_id"]): row["prompt"] for row in rows}
    questions = benchmarks.load("mmbench").questions(eval_root)
    assert len(asked) == len(questions) == 4377
    assert all(asked[question.row_id] == question.question for question in questions)
    assert len({question.medium for question in questions}) == 1176


def test_mmbench_sheet_is_the_one_that_was_uploaded(eval_root, mmbench_answers, tmp_path):
    benchmark = benchmarks.load("mmbench")
    questions = benchmark.questions(eval_root)
    replies, _, _ = read_replies(questions, mmbench_answers)
    (ours,) = benchmark.upload(eval_root, questions, replies, tmp_path / "ours.xlsx")
    theirs = eval_root / f"mmbench/answers_upload/mmbench_dev_20230712/{MODEL}.xlsx"
    sheets = [
        list(openpyxl.load_workbook(f, read_only=True).active.iter_rows(values_only=True))
        for f in (ours, theirs)
    ]
    assert len(sheets[0]) == 4378
    assert sheets[0] == sheets[1]


def test_mme_questions_are_read(eval_root, tmp_path):
    """The release's answers are not among the data: made-up ones stand in for them."""
    content = (eval_root / "MME/llava_mme.jsonl").read_text()
    (tmp_path / "MME").mkdir()
    (tmp_path / "MME/llava_mme.jsonl").write_text(content)
    truth: dict[PurePosixPath, list[str]] = {}
    for line in content.splitlines():
        row = json.loads(line)
        task, *inner, name = row["image"].split("/")
        folder = PurePosixPath(task, "questions_answers_YN") if inner else PurePosixPath(task)
        lines = truth.setdefault((folder / name).with_suffix(".txt"), [])
        question = row["text"].split("\nAnswer the question")[0]
        lines.append(f"{question} Please answer yes or no.\t{('No', 'Yes')[not lines]}\n")
    for name, lines in truth.items():
        path = tmp_path / "MME/MME_Benchmark_release_version" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
    benchmark = benchmarks.load("mme")
    questions = benchmark.questions(tmp_path)
    assert len(questions) == 2374
    assert len({question.medium for question in questions}) == 1187
    tasks = Counter(question.category for question in questions)
    assert len(tasks) == 14
    assert (tasks["existence"], tasks["posters"], tasks["celebrity"], tasks["OCR"]) == (60, 294, 340, 40)
    metrics = benchmark.metrics([benchmarks.grade(benchmark, q, "Yes, it is.") for q in questions])
    assert (metrics["perception"], metrics["cognition"], metrics["accuracy_plus"]) == (500, 200, 0)
