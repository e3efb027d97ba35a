"""Where the reference data are absent, their tests are skipped, and the run says so in so many words."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support import ROOT


def test_a_run_without_the_reference_data_says_so(tmp_path):
    data = {"RAYPIPE_REFERENCE_DATA": str(tmp_path)}
    env = {k: v for k, v in os.environ.items() if k not in ("RAYPIPE_GOLDEN", "RAYPIPE_REAL")} | data
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/golden/test_eval_root.py"],
        cwd=ROOT,
        env={**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert f"1 skipped: reference data 'golden' is not at {tmp_path / 'golden'}" in done.stdout
    assert f"1 skipped: reference data 'real' is not at {tmp_path / 'real'}" in done.stdout
