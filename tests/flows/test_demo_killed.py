"""Kills the demo in its steps and starts it again: nothing is lost, nothing is done twice.

By default in the first, the last and what the seed draws. RAYPIPE_ALL_FAULTS=1 kills it in each, and
compares it with one that nobody killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raypipe.store.verify import verify
from tests.support import ROOT
from tests.support.kills import ALL, points

STAGES = ("pretrain", "finetune", "lora")
EVALUATIONS = ("untrained", "trained", "one_frame", "lora")
# A kill falls when this many files of a kind are there: in prepare, training, evaluation, judging.
KILLS = [
    ("prepared/finetune/units/*.json", 1),
    ("train/finetune/checkpoints/*.json", 2),
    ("train/lora/checkpoints/*.json", 1),
    ("evaluate/trained/predictions/*.arrow", 1),
    ("evaluate/one_frame/verdicts/*", 1),
]


def _start(out: Path) -> subprocess.Popen[bytes]:
    log = open(out.with_suffix(".log"), "ab")  # noqa: SIM115 - the process keeps it
    command = [sys.executable, "-m", "tests.flows.small_demo", str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def _finish(out: Path) -> None:
    code = _start(out).wait(timeout=400)
    assert code == 0, out.with_suffix(".log").read_text()[-3000:]


def _kill_at(out: Path, pattern: str, count: int) -> None:
    """Starts the demo and ends its driver, without warning, once ``count`` files are there."""
    process = _start(out)
    deadline = time.monotonic() + 300
    while len(list(out.glob(pattern))) < count:
        assert process.poll() is None, out.with_suffix(".log").read_text()[-3000:]
        assert time.monotonic() < deadline, f"{pattern} never came"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert not (out / "report" / "report.json").exists()


def _scores(out: Path) -> dict[str, object]:
    return {name: json.loads((out / "evaluate" / name / "scores.json").read_text()) for name in EVALUATIONS}


def _losses(out: Path, stage: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "train" / stage / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, len(rows) + 1))
    return [r["loss"] for r in rows]


def _killed(out: Path) -> None:
    """Kills the demo in its steps, and lets it end; what was committed when a kill fell is not made again."""
    marks: dict[str, int] = {}
    for pattern, count in (KILLS[n - 1] for n in points(len(KILLS), 2)):
        _kill_at(out, pattern, count)
        for file in out.glob(pattern):
            marks[str(file)] = file.stat().st_mtime_ns
    _finish(out)
    # Old checkpoints are removed in time, and verdicts are put together in larger files.
    kept = [f for f in marks if "/checkpoints/" not in f and "/verdicts/" not in f]
    assert kept
    assert all(Path(f).stat().st_mtime_ns == marks[f] for f in kept)
    for folder in sorted(p.parent for p in out.glob("*/*/commit.json")):
        assert not verify(str(folder)).damage


@pytest.mark.engine
@pytest.mark.timeout(1100)
def test_a_demo_killed_in_its_steps_ends_whole(tmp_path):
    demo = tmp_path / "demo"
    _killed(demo)
    assert (demo / "report" / "report.json").exists()
    for name in EVALUATIONS:
        assert all(row["share"] == 1.0 for row in _scores(demo)[name]["coverage"].values())
    for stage in STAGES:
        _losses(demo, stage)
    if not ALL:
        return
    # The same files in the same place: media are stored by names that hold path and time of change, and the
    # order of training follows storage.
    killed, again = demo.rename(tmp_path / "killed"), demo
    shutil.copytree(killed / "data", again / "data")
    _finish(again)
    for stage in STAGES:
        assert _losses(killed, stage) == _losses(again, stage)
    assert _scores(killed) == _scores(again)
