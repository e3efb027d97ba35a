"""Scores of the real prediction files, against the published ones; see tests.support for where they lie."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from raypipe import benchmark as benchmarks
from raypipe.cli import main
from raypipe.report.score import score_answers
from tests.support import ROOT, reference_data

MODEL = "llava-v1.5-13b"


@pytest.fixture(scope="module")
def eval_root():
    return reference_data("golden") / "eval"


def test_pope(eval_root):
    found = score_answers("pope", eval_root, eval_root / f"pope/answers/{MODEL}.jsonl")
    metrics = found["metrics"]
    assert metrics["f1/adversarial"] == pytest.approx(84.4587, abs=5e-5)
    assert metrics["f1/popular"] == pytest.approx(86.2459, abs=5e-5)
    assert metrics["f1/random"] == pytest.approx(87.1360, abs=5e-5)
    assert metrics["f1"] == pytest.approx(85.947, abs=5e-4)
    assert round(metrics["f1"], 1) == benchmarks.load("pope").published_elsewhere["LLaVA-1.5-13B"]
    # TP/FP/TN/FN 1182/117/1383/318 in adversarial
    assert metrics["precision/adversarial"] == pytest.approx(100 * 1182 / 1299)
    assert metrics["recall/adversarial"] == pytest.approx(100 * 1182 / 1500)
    assert metrics["yes_ratio/adversarial"] == pytest.approx(100 * 1299 / 3000)
    assert (found["n"], found["missing"], found["duplicate"], found["extra"]) == (8910, 0, 0, 0)


def test_scienceqa(eval_root):
    found = score_answers("scienceqa", eval_root, eval_root / f"scienceqa/answers/{MODEL}.jsonl")
    assert found["metrics"]["accuracy"] == pytest.approx(100 * 3155 / 4241)
    assert found["metrics"]["img_accuracy"] == pytest.approx(100 * 1445 / 2017)
    assert found["metrics"]["failed"] == pytest.approx(100 * 5 / 4241)
    assert found["primary"] == "img_accuracy"
    assert round(found["metrics"]["img_accuracy"], 1) == 71.6


def test_scienceqa_parser_agrees_on_every_reply(eval_root):
    benchmark = benchmarks.load("scienceqa")
    official = json.loads((eval_root / f"scienceqa/answers/{MODEL}_output.jsonl").read_text())
    rows = {row["question_id"]: row for half in official.values() for row in half}
    right = {row["question_id"] for row in official["correct"]}
    questions = benchmark.questions(eval_root)
    assert len(questions) == len(rows) == 4241
    for question in questions:
        row = rows[question.row_id]
        graded = benchmarks.grade(benchmark, question, row["pred"])
        assert (graded.parsed, graded.truth) == (row["parsed_ans"], row["ground_truth"])
        assert (graded.value == 1) == (question.row_id in right)
        assert (question.medium is not None) == row["is_multimodal"]


def test_activitynet_questions_are_read_and_joined(eval_root):
    questions = benchmarks.load("activitynet_qa").questions(eval_root)
    place = eval_root / "GPT_Zero_Shot_QA/Activitynet_Zero_Shot_QA"
    answers = {row["question_id"]: row for row in json.loads((place / "test_a.json").read_text())}
    assert len(questions) == 8000
    assert len({q.medium for q in questions}) == 800
    assert all(q.reference == str(answers[q.row_id]["answer"]) for q in questions)
    assert Counter(q.category for q in questions)["3"] == 2094
    assert questions[0].medium.path == (
        "GPT_Zero_Shot_QA/Activitynet_Zero_Shot_QA/all_test/v_1QIUV7WYKXg.mp4"
    )


@pytest.mark.parametrize(
    ("name", "answers", "numbers"),
    [
        (
            "pope",
            f"pope/answers/{MODEL}.jsonl",
            {"f1": 85.947, "f1/adversarial": 84.4587},
        ),
        ("scienceqa", f"scienceqa/answers/{MODEL}.jsonl", {"accuracy": 74.393, "img_accuracy": 71.641}),
        (
            "mmbench",
            f"mmbench/answers/mmbench_dev_20230712/{MODEL}.jsonl",
            {"circular": 67.687, "vanilla": 75.425},
        ),
    ],
)
def test_the_command_line_prints_the_numbers(eval_root, name, answers, numbers, capsys):
    argv = ["score", name, "--eval-root", str(eval_root), "--answers", str(eval_root / answers), "--json"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert {key: found["metrics"][key] for key in numbers} == pytest.approx(numbers, abs=5e-4)
    for key in numbers:
        low, high = found["intervals"][key]
        assert low < found["metrics"][key] < high


def test_labels_of_another_release_are_refused_and_not_scored(eval_root, tmp_path, capsys):
    """3,000 random labels, as the POPE repository has today, against 2,910 questions."""
    for place in ("pope/llava_pope_test.jsonl", *benchmarks.load("pope").files[1:]):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes((eval_root / place).read_bytes())
    labels = tmp_path / "pope/coco/coco_pope_random.json"
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    first = {row["image"]: row for row in reversed(rows)}.values()
    more = [{**row, "text": "Is there a newt in the image?"} for row in first]
    labels.write_text("\n".join(json.dumps(row) for row in [*rows, *more[:90]]))
    answers = eval_root / f"pope/answers/{MODEL}.jsonl"
    assert main(["score", "pope", "--eval-root", str(tmp_path), "--answers", str(answers), "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "holds 90 questions that llava_pope_test.jsonl does not ask" in said.err
    assert "take coco_pope_*.json of commit e3e39262" in said.err


def test_the_largest_file_is_scored_by_a_process_of_its_own(eval_root):
    code = (
        "import sys; from raypipe.report.score import score_answers; "
        "print(score_answers('pope', sys.argv[1], sys.argv[2])['n'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(eval_root), str(eval_root / f"pope/answers/{MODEL}.jsonl")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "8910"


def test_the_real_clips_are_found_whatever_their_extension():
    root = reference_data("real") / "eval"
    gif = benchmarks.load("tgif_qa").questions(root)[0].medium.path
    assert gif.endswith("mp4/bulldog.gif")
    missing = [q for q in benchmarks.load("msvd_qa").questions(root) if not (root / q.medium.path).exists()]
    assert [q.row_id for q in missing] == ["v_no_such_clip_1"]
