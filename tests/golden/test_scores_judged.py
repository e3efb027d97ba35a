"""Scores of the real judge files, against the published ones; see tests.support for where they lie."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from raypipe import benchmark as benchmarks
from raypipe.report.score import read_replies, score_verdicts
from tests.support import ROOT, reference_data
from tests.support.eval_roots import write_json, write_lines

LLAVA_BENCH = "llava-bench-in-the-wild"
MM_VET_MODEL = "llava-v1.5-13b"
ACTIVITYNET_TYPES = {
    "0": 800,
    "1": 800,
    "2": 800,
    "3": 2094,
    "4": 697,
    "5": 318,
    "6": 386,
    "7": 606,
    "8": 1499,
}


@pytest.fixture(scope="module")
def golden():
    return reference_data("golden") / "eval"


@pytest.fixture(scope="module")
def reviews(golden):
    return sorted((golden / f"{LLAVA_BENCH}/reviews").glob("*.jsonl"))


@pytest.fixture(scope="module")
def llava_bench_root(golden, reviews, tmp_path_factory):
    """The question files are not there: real wordings, categories and ids, with made-up answers."""
    root = tmp_path_factory.mktemp("eval")
    answers = _lines(golden / f"{LLAVA_BENCH}/answers/llava-v1.5-7b.jsonl")
    reviewed = {row["question_id"]: row for row in _lines(reviews[0])}
    questions = [
        {
            "question_id": row["question_id"],
            "image": "001.jpg",
            "text": row["prompt"],
            "category": reviewed[row["question_id"]]["category"].removeprefix("llava_bench_"),
        }
        for row in answers
    ]
    references = [
        {"question_id": i, "text": "made up", "answer_id": row["answer1_id"]} for i, row in reviewed.items()
    ]
    write_lines(root / LLAVA_BENCH / "questions.jsonl", questions[::-1])
    write_lines(root / LLAVA_BENCH / "answers_gpt4.jsonl", references)
    write_lines(root / LLAVA_BENCH / "context.jsonl", [{"image": "001.jpg", "caption": "made up"}])
    return root


def test_llava_bench_reviews_are_scored_without_the_question_files(golden, reviews):
    found = [score_verdicts("llava_bench", golden, [review]) for review in reviews]
    assert [each["metrics"]["all"] for each in found] == [64.7, 65.3, 66.3]
    assert {(each["n"], each["missing"], each["extra"]) for each in found} == {(60, 0, 0)}
    assert found[0]["questions_missing"].endswith("questions.jsonl")


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _shown(value):
    return f"{value:.1f}"


def test_llava_bench_reviews(llava_bench_root, reviews):
    each = [score_verdicts("llava_bench", llava_bench_root, [path]) for path in reviews]
    assert [_shown(found["metrics"]["all"]) for found in each] == ["64.7", "65.3", "66.3"]
    first = each[0]
    assert {name: _shown(value) for name, value in first["metrics"].items()} == {
        "all": "64.7",
        "reference_x10": "87.0",
        "answer_x10": "56.3",
        "all/complex": "77.6",
        "reference_x10/complex": "85.4",
        "answer_x10/complex": "66.2",
        "all/conv": "59.3",
        "reference_x10/conv": "88.8",
        "answer_x10/conv": "52.6",
        "all/detail": "47.7",
        "reference_x10/detail": "88.0",
        "answer_x10/detail": "42.0",
    }
    assert (first["n"], first["missing"], first["duplicate"], first["extra"]) == (60, 0, 0, 0)


def test_llava_bench_over_three_reviews_is_the_published_score(llava_bench_root, reviews):
    found = score_verdicts("llava_bench", llava_bench_root, reviews)
    assert _shown(found["metrics"]["all"]) == "65.4"
    assert benchmarks.load("llava_bench").published_elsewhere["LLaVA-1.5-7B"] == 65.4
    assert [_shown(run["all"]) for run in found["runs"]] == ["64.7", "65.3", "66.3"]
    assert _shown(found["spread"]["all"]) == "0.7"
    low, high = found["intervals"]["all"]
    assert low < 65.4 < high
    assert (found["n"], found["outcomes"]) == (60, {"ok": 180})


def test_mm_vet_grades(golden):
    place = golden / "mm-vet/results"
    one = score_verdicts("mm_vet", golden, [place / f"{MM_VET_MODEL}_gpt-4-grade-1runs.json"])
    assert _shown(one["metrics"]["total"]) == "36.1"
    assert benchmarks.load("mm_vet").published_elsewhere["LLaVA-1.5-13B"] == 36.1
    assert (one["n"], one["missing"], one["extra"]) == (218, 0, 0)
    three = score_verdicts("mm_vet", golden, [place / f"{MM_VET_MODEL}_gpt-4-grade-3runs.json"])
    assert [_shown(run["total"]) for run in three["runs"]] == ["36.1", "36.5", "36.3"]
    assert (_shown(three["metrics"]["total"]), _shown(three["spread"]["total"])) == ("36.3", "0.2")
    assert list(three["metrics"]) == ["total"]


def test_mm_vet_upload_is_the_stored_one(golden, tmp_path):
    benchmark = benchmarks.load("mm_vet")
    questions = benchmark.questions(golden)
    replies, rows, extra = read_replies(questions, golden / f"mm-vet/answers/{MM_VET_MODEL}.jsonl")
    assert (len(replies), rows, extra) == (218, 218, 0)
    (path,) = benchmark.upload(golden, questions, replies, tmp_path / f"{MM_VET_MODEL}.json")
    assert path.read_bytes() == (golden / f"mm-vet/results/{MM_VET_MODEL}.json").read_bytes()


def test_activitynet_questions_and_verdicts_by_type(golden, tmp_path):
    benchmark = benchmarks.load("activitynet_qa")
    questions = benchmark.questions(golden)
    place = golden / benchmark.folder
    asked = {row["question_id"]: row for row in json.loads((place / "test_q.json").read_text())}
    answers = {row["question_id"]: row for row in json.loads((place / "test_a.json").read_text())}
    assert Counter(q.category for q in questions) == ACTIVITYNET_TYPES
    assert all(q.question == asked[q.row_id]["question"] for q in questions)
    assert all(q.category == str(answers[q.row_id]["type"]) for q in questions)
    # Verdicts in reverse order, right where it is yes or no; one cannot be read and one is lost.
    stored = {
        q.row_id: [
            {"pred": "yes" if q.category == "3" else "no", "score": 4},
            {"q": q.question, "a": q.reference, "pred": "made up"},
        ]
        for q in reversed(questions)
    }
    of_type = {q.category: q.row_id for q in questions}
    stored[of_type["8"]][0]["pred"] = "unsure"
    del stored[of_type["7"]]
    write_json(tmp_path / "results.json", stored)
    found = score_verdicts("activitynet_qa", golden, [tmp_path / "results.json"])
    assert found["metrics"]["accuracy"] == pytest.approx(100 * 2094 / 7998)
    assert found["metrics"]["accuracy/3"] == 100
    assert found["metrics"]["accuracy/8"] == 0
    assert (found["n"], found["missing"]) == (7998, 2)
    assert found["outcomes"] == {"judge_failed": 1, "judge_unreadable": 1, "ok": 7998}


@pytest.mark.parametrize(
    ("name", "asked", "gone"),
    [("msvd_qa", 4, ["v_no_such_clip_1"]), ("tgif_qa", 2, []), ("activitynet_qa", 3, [])],
)
def test_real_trees_are_joined_and_scored(name, asked, gone, tmp_path):
    root = reference_data("real") / "eval"
    questions = benchmarks.load(name).questions(root)
    answers = {
        row["question_id"]: row["answer"]
        for row in json.loads((root / benchmarks.load(name).folder / "test_a.json").read_text())
    }
    assert {q.row_id: q.reference for q in questions} == answers
    assert len(questions) == asked
    assert [q.row_id for q in questions if not (root / q.medium.path).is_file()] == gone
    for q in questions:
        if q.row_id not in gone:
            write_json(
                tmp_path / "gpt" / f"{q.row_id}.json", [{"pred": "yes", "score": 5}, {"q": q.question}]
            )
    found = score_verdicts(name, root, [tmp_path / "gpt"])
    assert found["metrics"]["accuracy"] == 100
    assert (found["n"], found["missing"]) == (asked - len(gone), len(gone))


def test_the_command_line_gives_the_same_numbers(golden, llava_bench_root, reviews):
    grades = golden / f"mm-vet/results/{MM_VET_MODEL}_gpt-4-grade-3runs.json"
    for name, root, files in (("llava_bench", llava_bench_root, reviews), ("mm_vet", golden, [grades])):
        arguments = ["score", name, "--eval-root", str(root), "--json", "--verdicts", *map(str, files)]
        done = subprocess.run(
            [sys.executable, "-m", "raypipe.cli", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
        assert found == json.loads(json.dumps(score_verdicts(name, root, files)))
        assert len(found["runs"]) == 3
