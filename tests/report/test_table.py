"""The terminal's table and the comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.errors import RequestError
from raypipe.report.run import compare, report_runs
from raypipe.report.table import render, render_comparison
from tests.report import runs

GOLDEN = Path(__file__).parent / "table.txt"


def whole(root: Path) -> dict:
    return report_runs(
        runs.trained_and_untrained(root),
        baseline="untrained",
        out=str(root / "report"),
        notes=[f"Judged by a {runs.MATCHER}."],
        checks=[
            {"name": "loss falls", "passed": True, "detail": "5.1 to 0.4"},
            {"name": "killed worker lost nothing", "passed": False, "detail": "2 of 60 differ"},
        ],
    )


def test_the_table_as_it_is_printed(tmp_path: Path) -> None:
    text = render(whole(tmp_path)).replace(str(tmp_path), "RUNS")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_keeps_to_its_width(tmp_path: Path, width: int) -> None:
    report = whole(tmp_path)
    report["paths"]["html"] = "r.html"
    text = render(report, width, every=True)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    assert "f1/popular" in text


def test_labels_are_neither_markup_nor_terminal_codes(tmp_path: Path) -> None:
    made = [runs.prediction(q, "yes") for q in runs.pope_questions(1)]
    path = runs.evaluate_run(tmp_path / "r", made)
    text = render(report_runs([("[red]m[/red]\x1b[2J", path)], out=str(tmp_path / "out")))
    assert "[red]m[/red]" in text
    assert "\x1b" not in text


def test_compare_is_paired_and_antisymmetric(tmp_path: Path) -> None:
    (_, a), (_, b) = runs.trained_and_untrained(tmp_path)
    there, back = compare(a, b), compare(b, a)
    for one, other in zip(there["benchmarks"], back["benchmarks"], strict=True):
        assert one["change"]["difference"] == pytest.approx(-other["change"]["difference"])
        assert (one["change"]["gained"], one["change"]["lost"]) == (
            other["change"]["lost"],
            other["change"]["gained"],
        )
        assert one["a"] == other["b"]
    text = render_comparison(there)
    assert "MSVD-QA" in text
    assert max(len(line) for line in text.splitlines() if "a:" not in line) <= 100


def test_compare_refuses_a_run_that_is_not_finished(tmp_path: Path) -> None:
    made = [runs.prediction(q, "yes") for q in runs.pope_questions(1)]
    done = runs.evaluate_run(tmp_path / "done", made)
    going = runs.evaluate_run(tmp_path / "going", made, commit=False)
    for pair in ((done, going), (going, done)):
        with pytest.raises(RequestError, match="going is not finished"):
            compare(*pair)


def test_a_run_against_itself_does_not_differ(tmp_path: Path) -> None:
    (_, path), _ = runs.trained_and_untrained(tmp_path)
    for row in compare(path, path)["benchmarks"]:
        change = row["change"]
        assert (change["difference"], change["gained"], change["lost"], change["p"]) == (0, 0, 0, 1)
        assert change["low"] < 0 < change["high"]


def test_compare_names_what_it_cannot_compare(tmp_path: Path) -> None:
    pope = [runs.prediction(q, "yes") for q in runs.pope_questions(1)]
    clips = [runs.prediction(q, "red") for q in runs.video_questions(1)]
    a = runs.evaluate_run(tmp_path / "a", [*pope, *clips])
    b = runs.evaluate_run(tmp_path / "b", pope)
    c = runs.evaluate_run(tmp_path / "c", clips)
    assert compare(a, b)["only_a"] == ["msvd_qa"]
    assert compare(a, c)["benchmarks"][0]["change"] is None  # nothing was judged
    with pytest.raises(RequestError, match="no benchmark is in both"):
        compare(b, c)
