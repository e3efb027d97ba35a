"""Kills the demo in its steps and starts it again: nothing is lost, nothing is done twice.

By default in the first, the last and what the seed draws; RAYPIPE_ALL_FAULTS=1 kills it in each.
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
from tests.support.kills import points

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


@pytest.mark.engine
@pytest.mark.timeout(1100)
def test_a_demo_killed_in_its_steps_ends_as_an_undisturbed_one(tmp_path):
    # The same files in the same place: media are stored by names that hold path and time of change, and the
    # order of training follows storage.
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "demo"
    _finish(killed)
    killed.rename(undisturbed)
    shutil.copytree(undisturbed / "data", killed / "data")
    marks: dict[str, int] = {}
    for pattern, count in (KILLS[n - 1] for n in points(len(KILLS), 2)):
        _kill_at(killed, pattern, count)
        for file in killed.glob(pattern):  # what was committed when the kill fell
            marks[str(file)] = file.stat().st_mtime_ns
    _finish(killed)
    # Old checkpoints are removed in time, and verdicts are put together in larger files.
    kept = [f for f in marks if "/checkpoints/" not in f and "/verdicts/" not in f]
    assert kept
    assert all(Path(f).stat().st_mtime_ns == marks[f] for f in kept)
    for stage in ("pretrain", "finetune", "lora"):
        assert _losses(killed, stage) == _losses(undisturbed, stage)
    assert _scores(killed) == _scores(undisturbed)
    for folder in sorted(p.parent for p in killed.glob("*/*/commit.json")):
        assert not verify(str(folder)).damage
