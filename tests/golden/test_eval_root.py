"""The doctor and the answer files over the reference's own eval trees."""

from __future__ import annotations

import pytest

from raypipe.doctor.eval_root import check_eval_root
from tests.support import reference_data


@pytest.mark.parametrize("tree", ["golden", "real"])
def test_the_doctor_looks_at_a_real_tree(tree):
    root = reference_data(tree) / "eval"
    rows = {(r["name"], r["split"]): r for r in check_eval_root(str(root), lambda _: None)["benchmarks"]}
    if tree == "golden":
        assert (rows["pope", ""]["questions"], rows["pope", ""]["media"]) == (8910, 500)
        assert rows["scienceqa", ""]["questions"] == 4241
        assert (rows["activitynet_qa", ""]["questions"], rows["activitynet_qa", ""]["media"]) == (8000, 800)
        assert rows["gqa", ""]["state"] == "incomplete"
    else:
        row = rows["msvd_qa", ""]
        assert (row["questions"], row["media"], row["missing"]) == (4, 2, 1)
        assert row["examples"][0].endswith("videos/no_such_clip.mp4")
