"""The check has an answer for any yaml, findings or a refusal, and leaves ordinary lines alone."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.cluster_files.check import check
from raypipe.cluster_files.placeholders import placeholders
from raypipe.cluster_files.read import read_cluster
from raypipe.cluster_files.rules import RULES
from raypipe.cluster_files.view import View
from raypipe.errors import RequestError
from tests.cluster_files.plants import AWS, JOB, KUBE, LOCAL, OPTIONS, SETUP

REPO = Path(__file__).parents[2]
ODD: tuple[Any, ...] = (None, "text", 7, True, [], ["a"], [None, 1], {}, {"a": {"b": 1}}, [[{}]])


def places(value: Any) -> Iterator[list[Any]]:
    """The path to every value below the top."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield [key]
        if isinstance(inner, (dict, list)):
            yield from ([key, *rest] for rest in places(inner))


def changed(document: Any, path: list[Any], value: Any) -> Any:
    out = copy.deepcopy(document)
    held = out
    for key in path[:-1]:
        held = held[key]
    held[path[-1]] = value
    return out


def _refused(path: str) -> str | None:
    """Runs all rules over a file; what it is refused with, if it is."""
    try:
        read = read_cluster(path)
        view = View(read, read.documents[0] if read.kind != "kuberay" else {}, "2.60.0")
        for rule in RULES:
            list(rule.findings(view))
        placeholders(read)
    except RequestError as refused:
        return refused.message
    return None


@pytest.mark.parametrize(("file", "step"), [(AWS, 1), (LOCAL, 1), (KUBE, 2), (JOB, 7)])
def test_any_value_anywhere_is_answered(tmp_path: Path, file: str, step: int) -> None:
    document = yaml.safe_load((REPO / file).read_text())
    path, ends = tmp_path / "odd.yaml", []
    for n, place in enumerate(places(document)):
        if n % step == 0:
            path.write_text(yaml.safe_dump(changed(document, place, ODD[n // step % len(ODD)])))
            ends.append(_refused(str(path)))
    assert all(str(path) in end for end in ends if end is not None)
    assert None in ends
    assert any(end is not None for end in ends)


@pytest.mark.parametrize("file", [AWS, LOCAL, KUBE])
def test_rays_and_ec2s_checks_answer_too(tmp_path: Path, file: str) -> None:
    document = yaml.safe_load((REPO / file).read_text())
    path = tmp_path / "odd.yaml"
    for n, place in enumerate(places(document)):
        if n % 13:
            continue
        path.write_text(yaml.safe_dump(changed(document, place, ODD[n % len(ODD)])))
        try:
            code, result = check(str(path))
        except RequestError:
            continue
        assert code in (0, 2)
        assert all(f["said"] and f["line"] >= 1 for f in result["findings"])


ORDINARY = [
    "curl -fsSL -o a.tgz https://host/a.tgz && echo '0123  a.tgz' | sha256sum -c",
    "wget -q https://host/a.tgz",
    "pip install -r requirements.txt",
    "pip install --no-cache-dir -c constraints.txt wandb",
    "pip install wandb==0.20.1 'ray[default]==2.60.0'",
    "pip install --index-url https://my.host/simple wandb==0.20.1",
    "pip install ./wheels/a-1.0-py3-none-any.whl",
    "chmod 755 ~/bin/tool && chmod -R u+rwX,go-w ~/x",
    "export HF_TOKEN=$(cat ~/raypipe/secrets/hf_token)",
    'export HF_TOKEN="$(cat ~/raypipe/secrets/hf_token)"',
    "export WANDB_API_KEY_FILE=~/raypipe/secrets/wandb OPENAI_API_KEY=${OPENAI_API_KEY}",
    "export HF_HOME=~/raypipe/hf TOKENIZERS_PARALLELISM=false WANDB_MODE=offline",
    "git clone https://host/a/b ~/b",
    "echo 'the token lies in ~/.ray/auth_token'",
    "python -c 'import torch' | tee ~/log.sh",
    "sudo sysctl -w net.core.somaxconn=1024",
    "vllm serve --host 127.0.0.1 --max-tokens 100",
]
OPTIONS_ORDINARY = [
    "-v /mnt/data:/home/ray/data:ro",
    "-e NCCL_DEBUG=INFO -e NCCL_SOCKET_IFNAME=ens",
    "--env HF_HOME=/home/ray/raypipe/hf",
    "--cap-drop ALL --security-opt no-new-privileges",
    "--memory 100g --cpus 8 --user 1000:100",
]


def test_ordinary_lines_are_left_alone(tmp_path: Path) -> None:
    text = (REPO / AWS).read_text()
    lines = "".join(f"  - {json.dumps(c)}\n" for c in ORDINARY)
    options = "".join(f"    - {o}\n" for o in OPTIONS_ORDINARY)
    path = tmp_path / "cluster.yaml"
    path.write_text(text.replace(SETUP, SETUP + lines).replace(OPTIONS, OPTIONS + options))
    held = yaml.safe_load(path.read_text())
    assert set(ORDINARY) < set(held["setup_commands"])
    assert set(OPTIONS_ORDINARY) < set(held["docker"]["run_options"])
    assert check(str(path))[1]["findings"] == []


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_what_the_launcher_sends_holds_no_data_and_no_secrets(tmp_path: Path) -> None:
    """The same filters, in the form in which Ray's command runner hands them to rsync."""
    from ray.autoscaler._private.command_runner import SSHCommandRunner

    config = yaml.safe_load((REPO / AWS).read_text())
    options = {"rsync_exclude": config["rsync_exclude"], "rsync_filter": config["rsync_filter"]}
    filters = SSHCommandRunner._create_rsync_filter_args(None, options)
    here, there = tmp_path / "repo", tmp_path / "node"
    kept = (
        "raypipe/cli.py",
        "raypipe/report/run.py",
        "jobs/finetune.py",
        "pyproject.toml",
        "constraints.txt",
    )
    left = (
        ".venv/bin/x",
        ".git/config",
        "runs/demo/a.json",
        "x/clip.mp4",
        "judge.key",
        ".env",
        "a/model.safetensors",
    )
    for name in (*kept, *left):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("x")
    for name in (".gitignore", ".rayignore"):
        shutil.copy(REPO / name, here)
    subprocess.run(["rsync", "-a", *filters, f"{here}/", f"{there}/"], check=True)
    sent = {str(p.relative_to(there)) for p in there.rglob("*") if p.is_file()}
    assert sent - {".gitignore", ".rayignore"} == set(kept)
    key = tmp_path / "ssh" / "raypipe.pem"  # Ray sends the key of its own to the head with the same filters
    key.parent.mkdir()
    key.write_text("x")
    subprocess.run(["rsync", "-a", *filters, str(key), f"{tmp_path}/head.pem"], check=True)
    assert (tmp_path / "head.pem").exists()
