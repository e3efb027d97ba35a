"""The whole command on a tiny evaluation: killed workers, decoders and drivers, a judge that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.settings import JudgeSettings
from tests.support import ROOT
from tests.support.eval_media import asking, eval_root

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


def test_an_evaluation_is_proved(tmp_path, tiny_folder):
    root = eval_root(tmp_path / "eval")
    key = tmp_path / "key"
    key.write_text("sk-not-to-be-read")
    real = JudgeSettings(base_url="https://judge.invalid/v1", model="dear", key_file=str(key))
    settings = asking(root, tiny_folder, tmp_path / "real", judge=real)
    config = tmp_path / "evaluate.yaml"
    config.write_text(json.dumps(settings.model_dump(mode="json")))
    scratch = tmp_path / "scratch"
    command = ["chaos", str(config), "--seed", "5", "--out", str(scratch), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "raypipe.cli", *command], cwd=ROOT, capture_output=True, text=True, timeout=380
    )
    said = done.stdout + done.stderr + _tail(scratch / "log")
    assert done.returncode == 0, said
    result = json.loads(done.stdout)
    assert result["verdict"] == "proved", said
    fired = {f["fault"]: (f["fired"], f["planned"]) for f in result["faults"]}
    assert fired == {"worker": (1, 1), "decoder": (1, 1), "driver": (1, 1), "judge": (3, 3)}, said
    assert all(check["held"] for check in result["checks"])
    assert len(result["checks"]) == 7
    assert result["ends"][-1] == "exit 0"
    assert "killed" in result["ends"]
    assert any(result["twice"].values())
    assert not (tmp_path / "real").exists()
    assert "sk-not-to-be-read" not in said
    assert (scratch / "undisturbed/commit.json").is_file()


def _tail(log: Path) -> str:
    return log.read_text()[-3000:] if log.exists() else ""
