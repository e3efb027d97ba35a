"""A training that is stopped by a signal says so with exit code 4, and the same command ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raypipe.status.look import status_of
from tests.support import ROOT

COMMAND = [
    sys.executable,
    "-m",
    "raypipe.cli",
    "train",
    "jobs/demo_finetune.yaml",
    "checkpoint.every_steps=10",
]


def _start(home: Path) -> subprocess.Popen[str]:
    def listen() -> None:  # a shell may have told its background processes to ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)

    environment = {**os.environ, "HOME": str(home), "RAYPIPE_DASHBOARD": "0"}
    return subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )


@pytest.mark.engine
@pytest.mark.timeout(400)
def test_a_stopped_training_ends_with_4_and_continues(tmp_path):
    run = tmp_path / ".cache" / "raypipe" / "demo_job" / "finetune"
    for number, how in enumerate((signal.SIGTERM, signal.SIGINT), start=1):
        process = _start(tmp_path)
        deadline = time.monotonic() + 150
        while len(list(run.glob("checkpoints/*.json"))) < number:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 4, errors
        assert "error: stopped" in errors
        assert "Traceback" not in errors
        assert not (run / "commit.json").exists()
        found = status_of(str(run))
        assert (found["state"], found["exit_code"], len(found["starts"])) == ("stopped", 4, number)
        assert found["stopping"]["signal"] == how.name
    process = _start(tmp_path)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert output.startswith("60 steps, loss")
    assert (run / "commit.json").exists()
    assert [row["state"] for row in status_of(str(run))["starts"]] == ["stopped", "stopped", "finished"]
