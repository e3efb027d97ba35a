"""Loss curves: resumed runs, smoothing, thinning, axes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.report.collect import read_training
from raypipe.report.curves import smooth, thin, training_entry
from raypipe.report.plots import curve_plot, linear_ticks, log_ticks
from tests.report import runs


def test_the_last_line_of_a_repeated_step_wins(tmp_path: Path) -> None:
    run = read_training("t", runs.train_run(tmp_path / "t", 120))
    assert [row["step"] for row in run.steps] == list(range(1, 121))
    assert {row["attempt"] for row in run.steps[60:]} == {2}
    assert run.repeated == 10
    entry = training_entry(run)
    assert entry["resumed_at"] == [61]
    assert entry["steps"] == 120
    assert entry["samples"] == 120 * 16


def test_a_torn_line_and_a_loss_that_is_not_finite_are_counted(tmp_path: Path) -> None:
    path = runs.train_run(tmp_path / "t", 8, resumed=False)
    lines = [runs.step_row(s, 1) for s in range(1, 9)]
    lines[3]["loss"] = float("nan")
    text = "\n".join(json.dumps(row) for row in lines) + '\n{"step": 9, "lo'
    (tmp_path / "t" / "metrics.jsonl").write_text(text)
    entry = training_entry(read_training("t", path))
    assert (entry["unreadable_lines"], entry["not_finite"], entry["steps"]) == (1, 1, 8)
    assert 4 not in entry["curve"]["step"]
    assert entry["data_wait_share"] == pytest.approx(0.025)


def test_a_run_without_measurements(tmp_path: Path) -> None:
    path = runs.train_run(tmp_path / "t", 4)
    (tmp_path / "t" / "metrics.jsonl").unlink()
    entry = training_entry(read_training("t", path))
    assert entry["steps"] == 0
    assert entry["loss_last"] is None
    assert curve_plot([], [], []) is None


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60))
def test_a_smoothed_curve_stays_between_its_extremes(values: list[float]) -> None:
    for position, value in enumerate(smooth(values)):
        seen = values[: position + 1]
        assert min(seen) * (1 - 1e-9) <= value <= max(seen) * (1 + 1e-9)


@given(st.integers(0, 5000), st.integers(2, 400))
def test_thinning_keeps_both_ends_and_the_bound(length: int, points: int) -> None:
    kept = thin(length, points)
    assert len(kept) <= points
    assert kept == sorted(set(kept))
    if length:
        assert (kept[0], kept[-1]) == (0, length - 1)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_cover_the_data(low: float, span: float) -> None:
    ticks = linear_ticks(low, low + span)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 9


@given(st.floats(1e-6, 1e3), st.floats(20, 1e6))
def test_log_ticks_cover_the_data(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert ticks[0] <= low * (1 + 1e-9)
    assert ticks[-1] >= low * factor * (1 - 1e-9)


def test_a_loss_that_falls_far_is_drawn_on_a_log_axis() -> None:
    plot = curve_plot([1, 2, 3], [10.0, 1.0, 0.1], [10.0, 2.0, 0.3])
    assert plot is not None
    assert plot.log
    assert [t.label for t in plot.y_ticks] == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]
