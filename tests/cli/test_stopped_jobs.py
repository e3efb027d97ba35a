"""``ray job stop`` in the middle of a verb: exit code 4, nothing lost, and the command that continues."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from raypipe import cli
from raypipe.status.look import status_of
from raypipe.store.files import Store
from raypipe.store.starts import starts_of, text_of
from raypipe.submit.dashboard import Dashboard
from raypipe.submit.order import STAGES, order
from tests.support import ROOT
from tests.support.clips import talk, write_annotations, write_clip
from tests.support.evaluated import clip_root
from tests.support.prepared import prepared

WAIT_S = 120


@pytest.mark.parametrize("patience", ["1.2", "nonsense"])
def test_a_job_that_cannot_end_in_time_goes_with_4_and_says_how_to_continue(patience):
    """As when the cluster does not answer any more: what stops a job would kill it before it has said so."""
    script = (
        "import sys, time\nfrom raypipe import cli\nfrom raypipe.commands import results\n"
        "def stuck(request):\n    try:\n        print('on', flush=True)\n        time.sleep(600)\n"
        "    finally:\n        time.sleep(600)\n"
        "results.benchmarks = stuck\nsys.argv = ['/somewhere/jobs/benchmarks.py']\n"
        "sys.exit(cli.main(['benchmarks', 'a=b c']))"
    )
    environment = {
        **os.environ,
        "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}}),
        "RAY_JOB_STOP_WAIT_TIME_S": patience,
    }
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "on\n"
    child.terminate()
    _, err = child.communicate(timeout=60)
    assert child.returncode == 4
    assert "raypipe submit benchmarks 'a=b c'" in err
    assert "ray job submit --working-dir . -- python jobs/benchmarks.py 'a=b c'" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["prepare", "evaluate", "tune", "pretrain", "finetune", "finetune_lora"])
@pytest.mark.parametrize("given", [[], ["out=/shared/a b"]])
def test_the_line_that_continues_names_the_yaml_beside_the_script(monkeypatch, name, given):
    """A script of jobs/ takes it where none is named; submit, which is told a verb, does not."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "a"}}))
    monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *given])
    monkeypatch.setattr(cli, "main", lambda argv, command: command)
    monkeypatch.chdir(ROOT)
    verb = "train" if name in STAGES else name
    ours, rays = cli.job(verb, f"/upload/jobs/{name}.py").again()
    assert shlex.split(ours)[:2] == ["raypipe", "submit"]
    request = cli.parse(shlex.split(ours)[2:], "submit")
    wanted = order(request.words[0], request.words[1:], request.settings, list(cli.VERBS), ROOT)
    assert (wanted.verb, wanted.arguments) == (verb, (f"jobs/{name}.yaml", *given))
    assert rays == shlex.join(
        ["ray", *["job", "submit", "--working-dir", ".", "--"], "python", f"jobs/{name}.py", *given]
    )


def test_a_yaml_that_is_a_settings_value_is_not_the_settings_file(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["jobs/tune.py", "stage=jobs/demo_finetune.yaml"])
    monkeypatch.setattr(cli, "main", lambda argv, command: argv)
    taken = cli.job("tune", "/upload/jobs/tune.py")
    assert taken == ["tune", "/upload/jobs/tune.yaml", "stage=jobs/demo_finetune.yaml"]


def test_the_line_that_continues_a_job_repeats_the_yaml_that_was_named(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "a"}}))
    monkeypatch.setattr(sys, "argv", ["jobs/tune.py", "jobs/demo_tune.yaml", "trials=2"])
    monkeypatch.setattr(cli, "main", lambda argv, command: command)
    again = cli.job("tune", "/upload/jobs/tune.py").again()
    assert again[0] == "raypipe submit tune jobs/demo_tune.yaml trials=2"


@dataclass
class Case:
    """A verb as a job: its words, its run folder, and what is there once it is in the middle."""

    words: list[str]
    out: Path
    begun: str


def preparing(folder: Path, model: Path) -> Case:
    clips = [write_clip(folder / f"data/c{n}.mp4", 5 + n % 20) for n in range(120)]
    write_annotations(
        folder / "data", [{"video": c.name, "conversations": talk("<video>\nq", "a")} for c in clips]
    )
    file = folder / "set.yaml"
    lines = ["name: drawn", f"data_root: {folder}/data", "annotations: [tune.json]", "media_per_shard: 1"]
    file.write_text("\n".join([*lines, f"out: {folder}/run", ""]))
    return Case(["prepare", str(file)], folder / "run", "units/*.json")


def training(folder: Path, model: Path) -> Case:
    out = folder / "run"
    write_annotations(
        folder / "data", [{"conversations": talk(f"question {n}", "answer")} for n in range(40)]
    )
    prepared(folder / "data", folder / "text")
    settings = ["checkpoint.every_steps=2", "steps=4000", f"out={out}", f"mixture=[{{data: {folder}/text}}]"]
    return Case(["train", "jobs/demo_finetune.yaml", *settings], out, "checkpoints/step-*.json")


def evaluating(folder: Path, model: Path) -> Case:
    root = clip_root(folder / "eval", [f"c{n}" for n in range(80)])
    settings = [f"model={model}", f"eval_root={root}", f"out={folder / 'run'}", "benchmarks=msvd_qa"]
    settings += ["media_per_unit=1", "precision=fp32", "max_new_tokens=4", "coverage_floor=0"]
    settings += ["actors=1", "actor_gpus=0", "actor_cpus=1"]
    return Case(["evaluate", *settings], folder / "run", "predictions/*.arrow")


@pytest.mark.engine
@pytest.mark.timeout(500)
@pytest.mark.parametrize("case", [preparing, training, evaluating], ids=lambda case: case.__name__)
def test_a_stopped_job_is_no_success_and_continues(
    one_node, tiny_folder, tmp_path, monkeypatch, case: Callable[[Path, Path], Case]
):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", one_node.environ["RAY_AUTH_TOKEN_PATH"])
    made, board = case(tmp_path, tiny_folder), Dashboard(one_node.dashboard)
    name = f"raysubmit_{uuid.uuid4().hex[:16]}"
    command = [sys.executable, f"{ROOT}/jobs/{made.words[0]}.py", *made.words[1:]]
    board.submit({"entrypoint": f"cd {ROOT} && exec {shlex.join(command)}", "submission_id": name})
    wait_for(lambda: list(made.out.glob(made.begun)), board, name)
    began = time.monotonic()
    board.stop(name)
    wait_for(lambda: board.job(name)["status"] not in ("PENDING", "RUNNING"), board, name)
    print(f"{made.words[0]}: gone {time.monotonic() - began:.1f} s after ray job stop")
    assert board.job(name)["status"] == "STOPPED"
    found = status_of(str(made.out))
    assert (found["state"], found["exit_code"]) == ("stopped", 4)
    assert not found["committed"]
    (start,) = found["starts"]
    assert start["submission_id"] == name
    (record,) = starts_of(Store(str(made.out)))
    assert record.part("stopping")["signal"] == "SIGTERM"
    assert "what was committed stays" in text_of(Store(str(made.out)), record)
    said = board.log(name)
    for line in found["again"]:
        assert line in said
    assert found["again"][0].startswith(f"raypipe submit {made.words[0]} ")
    assert found["again"][1].startswith(f"ray job submit --working-dir . -- python jobs/{made.words[0]}.py ")
    assert "Traceback" not in said
    kept = {f: f.stat().st_mtime_ns for f in made.out.glob(made.begun)}
    assert kept


def wait_for(there: Callable[[], object], board: Dashboard, job: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not there():
        assert time.monotonic() < deadline, board.log(job)[-3000:]
        assert board.job(job)["status"] in ("PENDING", "RUNNING", "STOPPED"), board.log(job)[-3000:]
        time.sleep(0.05)
