"""VizWiz's and TextVQA's real questions and answers; see tests.support for where they lie."""

from __future__ import annotations

import json

import pytest

from raypipe import benchmark as benchmarks
from raypipe.report.score import read_replies, score_answers
from tests.support import reference_data

MODEL = "llava-v1.5-13b"


@pytest.fixture(scope="module")
def eval_root():
    return reference_data("golden") / "eval"


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_vizwiz_upload_is_the_stored_one_to_the_byte(eval_root, tmp_path):
    vizwiz = benchmarks.load("vizwiz")
    questions = vizwiz.questions(eval_root)
    replies, rows, extra = read_replies(questions, eval_root / f"vizwiz/answers/{MODEL}.jsonl")
    assert (len(questions), len(replies), rows, extra) == (8000, 8000, 8000, 0)
    (written,) = vizwiz.upload(eval_root, questions, replies, tmp_path / "upload.json")
    stored = eval_root / f"vizwiz/answers_upload/{MODEL}.json"
    ours, theirs = json.loads(written.read_bytes()), json.loads(stored.read_bytes())
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) == 8000
    assert [list(row) for row in ours] == [list(row) for row in theirs]
    assert written.read_bytes() == stored.read_bytes()


@pytest.fixture
def textvqa_root(eval_root, tmp_path):
    """The real questions with a made-up ground truth: the model's own answers, or others."""
    folder = tmp_path / "textvqa"
    folder.mkdir()
    questions = eval_root / "textvqa/llava_textvqa_val_v051_ocr.jsonl"
    (folder / questions.name).symlink_to(questions)
    entries = []
    for number, row in enumerate(read_rows(eval_root / f"textvqa/answers/{MODEL}.jsonl")):
        wording = row["prompt"].split("\n")[0]
        kinds = ([row["text"]] * 4, [row["text"]] * 2 + ["not this"] * 8, ["not this"] * 10)
        answers = (kinds[number % 3] * 3)[:10]
        entries.append({"image_id": row["question_id"], "question": wording.lower(), "answers": answers})
    truth = {"data": sorted(entries, key=lambda entry: entry["question"])}
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps(truth))
    return tmp_path


def test_textvqa_questions_and_answers_are_joined(eval_root, textvqa_root):
    textvqa = benchmarks.load("textvqa")
    questions = textvqa.questions(textvqa_root)
    assert len(questions) == 5000
    assert len({q.medium for q in questions}) == 3166
    assert [q.prompt for q in questions] == [
        row["text"] for row in read_rows(eval_root / "textvqa/llava_textvqa_val_v051_ocr.jsonl")
    ]
    found = score_answers("textvqa", textvqa_root, eval_root / f"textvqa/answers/{MODEL}.jsonl")
    assert (found["n"], found["missing"], found["duplicate"], found["extra"]) == (5000, 0, 0, 0)
    assert found["metrics"]["accuracy"] == pytest.approx(100 * (1667 + 0.6 * 1667) / 5000)
