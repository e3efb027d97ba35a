"""docs/cluster.md, command by command, as it stands there, on a cluster of one node.

What needs a cloud account is left out. ``~`` is a folder of the test with a small DATA_ROOT, an eval tree and
a judge's key. To the commands that train and evaluate is added what makes them fit on two CPU cores.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.demo.data import draw_data_root
from raypipe.settings import DrawnData
from tests.support import ROOT
from tests.support.judge_endpoint import JudgeEndpoint
from tests.support.pages import CLOUD, RUN, blocks

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TINY_STAGE = [
    *("start={random: tiny}", "workers={num: 1}", "precision=fp32", "global_batch=4", "micro_batch=4"),
    *("steps=3", "gradient_checkpointing=false"),
]
TINY_EVALUATION = [
    *("actors=1", "actor_gpus=0", "actor_cpus=1", "precision=fp32", "max_new_tokens=4", "certificate=2"),
]
SMALL = {
    "raypipe submit train": TINY_STAGE,
    "raypipe plan jobs/finetune.yaml": ["start={random: 7b}", "workers.gpus=1"],
    "ray job submit": TINY_STAGE,
    "raypipe submit evaluate": TINY_EVALUATION,
}


def commands() -> list[str]:
    mine = [b for b in blocks() if b.page == RUN and b.language == "bash" and b.mark != CLOUD]
    return [shlex.join(words) for block in mine for words in block.commands()]


@pytest.fixture
def home(one_node) -> Path:
    """The home folder of whoever types, and of the cluster."""
    place = Path(one_node.environ["HOME"]) / "raypipe"
    draw_data_root(place / "DATA_ROOT", DrawnData(scale=0.001))  # and the eval tree beside it
    text = [{"id": str(n), "conversations": turns(n)} for n in range(8)]
    (place / "DATA_ROOT" / "ft_json" / "nlp_tune.json").write_text(json.dumps(text))
    (place / "secrets").mkdir()
    (place / "secrets" / "judge_key").write_text("sk-of-the-page")
    (place / "secrets" / "judge_key").chmod(0o600)
    return place.parent


def turns(number: int) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": f"What comes after {number}?"},
        {"from": "gpt", "value": f"{number + 1} does."},
    ]


def test_every_command_of_the_page(one_node, home):
    shown = commands()
    assert {"raypipe submit train", "raypipe submit evaluate"} <= {" ".join(c.split()[:3]) for c in shown}
    environ = one_node.environ | {"RAY_ADDRESS": one_node.dashboard}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with JudgeEndpoint() as endpoint:
        for command in shown:
            words = [w.replace("~/", f"{home}/") for w in shlex.split(command)]
            if words[0] == "export":
                assert dict(w.split("=", 1) for w in words[1:]) == {
                    "RAY_AUTH_MODE": "token",
                    "RAY_ADDRESS": "http://127.0.0.1:8265",
                }
                continue
            more = next((m for start, m in SMALL.items() if command.startswith(start)), [])
            if command.startswith("raypipe submit judge"):
                more = [f"base_url={endpoint.base_url}"]
            done = subprocess.run(
                [*words, *more], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=400
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert endpoint.calls
    scores = json.loads((home / "raypipe" / "runs" / "evaluate" / "scores.json").read_text())
    assert scores
    assert (home / "raypipe" / "report" / "report.html").is_file()
