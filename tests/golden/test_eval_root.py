"""The doctor and the answer files over the reference's own eval trees."""

from __future__ import annotations

import time

import pytest

from raypipe.doctor.eval_root import check_eval_root
from raypipe.eval_root import read_json_lines
from tests.support import reference_data


@pytest.mark.parametrize("tree", ["golden", "real"])
def test_the_doctor_looks_at_a_real_tree_in_seconds(tree):
    root = reference_data(tree) / "eval"
    started = time.process_time()
    rows = {(r["name"], r["split"]): r for r in check_eval_root(str(root), lambda _: None)["benchmarks"]}
    assert time.process_time() - started < 5
    if tree == "golden":
        assert (rows["pope", ""]["questions"], rows["pope", ""]["media"]) == (8910, 500)
        assert rows["scienceqa", ""]["questions"] == 4241
        assert (rows["activitynet_qa", ""]["questions"], rows["activitynet_qa", ""]["media"]) == (8000, 800)
        assert rows["gqa", ""]["state"] == "incomplete"
    else:
        row = rows["msvd_qa", ""]
        assert (row["questions"], row["media"], row["missing"]) == (4, 2, 1)
        assert row["examples"][0].endswith("videos/no_such_clip.mp4")


def test_the_largest_question_file_is_read_fast():
    path = reference_data("golden") / "eval/pope/llava_pope_test.jsonl"
    best = 9.0
    for _ in range(3):
        started = time.process_time()
        assert sum(1 for _ in read_json_lines(path)) == 8910
        best = min(best, time.process_time() - started)
    assert best < 0.2
