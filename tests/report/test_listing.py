"""Scores and benchmarks as text: narrow, the primary metric first, every number of the result there."""

from __future__ import annotations

from dataclasses import replace

from raypipe import benchmark as benchmarks
from raypipe.report.listing import (
    WIDTH,
    benchmark_rows,
    benchmarks_text,
    export_text,
    graded_by,
    score_text,
)

RESULT = {
    "benchmark": "mm_vet",
    "title": "MM-Vet",
    "split": "",
    "metrics": {"total/ocr": None, "total": 36.3},
    "primary": "total",
    "n": 1217,
    "missing": 1,
    "duplicate": 0,
    "extra": 2,
    "outcomes": {"judge_failed": 1, "ok": 1217},
    "intervals": {"total/ocr": [None, None], "total": [30.25, 42.0]},
    "counts": {"total/ocr": [0, 3], "total": [1217, 1]},
    "published": {"total": 32.0},
    "published_source": "a paper",
    "published_elsewhere": {"LLaVA-1.5-13B": 36.1},
}


def test_a_score_is_a_narrow_table_with_the_primary_metric_first():
    assert score_text(RESULT).splitlines() == [
        "MM-Vet: 1,217 questions scored, 1 missing, 2 extra",
        "",
        "  metric      value   95 % interval      n  missing  published",
        "  total      36.300  [30.25, 42.00]  1,217        1       32.0",
        "  total/ocr       -               -      0        3",
        "",
        "outcomes: judge_failed 1, ok 1,217",
        "published: a paper",
        "published total of others: LLaVA-1.5-13B 36.1",
    ]


def test_several_runs_of_a_judge_are_shown_with_their_spread():
    runs = [{"total/ocr": None, "total": v} for v in (36.1, 36.5, 36.3)]
    spread = {"total/ocr": None, "total": 0.1633}
    text = score_text({**RESULT, "runs": runs, "spread": spread, "published": {}, "published_elsewhere": {}})
    assert "  metric      value   95 % interval      n  missing  spread" in text
    assert "  total      36.300  [30.25, 42.00]  1,217        1   0.163" in text
    assert "total in 3 runs of the judge: 36.100, 36.500, 36.300" in text
    assert "published" not in text


def test_all_benchmarks_are_listed_in_narrow_lines():
    rows = benchmark_rows()
    assert [row["name"] for row in rows] == benchmarks.names()
    text = benchmarks_text(rows)
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    for row in rows:
        [line, *_] = [x for x in text.splitlines() if x.split()[:1] == [row["name"]]]
        assert row["primary"] in line
        assert row["graded_by"] in line
        assert row["size"] is None or f" {row['size']:,} " in line
        assert f"  {row['name']}" in text.partition("below the eval root")[2]
        assert row["folder"] in text.partition("below the eval root")[2]
    pope = next(row for row in rows if row["name"] == "pope")
    assert (pope["graded_by"], pope["published"], pope["upload"]) == ("rule", {"f1": 84.4}, False)
    assert pope["files"][0] == ["pope/llava_pope_test.jsonl"]


def test_a_long_title_is_cut():
    row = {**benchmark_rows()[0], "title": "The " + 20 * "very " + "long benchmark", "upload": True}
    text = benchmarks_text([row])
    assert text.splitlines()[1].split()[1:5] == ["The", "very", "very", "very…"]
    assert text.splitlines()[1].endswith("yes")
    assert max(len(line) for line in text.splitlines()) <= WIDTH


def test_splits_and_uploads_are_listed():
    row = {**benchmark_rows()[0], "splits": ["en", "cn"], "split": "en", "upload": True, "published": {}}
    text = benchmarks_text([row])
    assert f"splits of {row['name']}: en, cn (default en)" in text
    assert text.splitlines()[1].endswith("yes")


def test_who_grades():
    pope, msvd = benchmarks.load("pope"), benchmarks.load("msvd_qa")
    assert (graded_by(pope), graded_by(msvd)) == ("rule", "judge")
    assert graded_by(replace(msvd, rubric=None)) == "judge"
    assert graded_by(replace(pope, rule=None)) == "server"


def test_an_export_of_several_files_names_the_first():
    found = {"files": ["out/a", "out/b"], "n": 3, "missing": 0, "extra": 0, "duplicate": 1}
    assert export_text(found) == "3 answers, 1 duplicate: 2 files, the first is out/a"
