"""``raypipe submit`` on a real cluster: the upload that arrives, the log, the stop, the second submission."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.one_node import TOKEN, OneNode

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def jobs_of(node: OneNode) -> dict[str, dict[str, Any]]:
    request = urllib.request.Request(f"{node.dashboard}/api/jobs/")  # noqa: S310
    request.add_header("Authorization", f"Bearer {TOKEN}")
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return {j["submission_id"]: j for j in json.loads(answer.read()) if j["submission_id"]}


def start(node: OneNode, folder: Path, *argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raypipe.cli", "submit", *argv, "--json"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=node.environ | {"RAY_ADDRESS": node.dashboard},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )


SLOW = """
import sys, time
from raypipe import cli
from raypipe.commands import results

def slow(request):
    print("at work", flush=True)
    try:
        time.sleep(120)
    finally:
        time.sleep(4.5)  # longer than Ray waits unless it is told to
        open("{tidied}", "w").close()

results.benchmarks = slow
sys.exit(cli.main(["benchmarks"]))
"""


def test_a_stopped_job_ends_with_4_and_is_joined_while_it_runs(one_node, tmp_path):
    """The job's interpreter is a script of the folder's own, whose verb works until it is told to stop."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in (".env", "judge.key", "clip.mp4", "runs/a.json", "notes.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "python").write_text(f"#!/bin/sh\nls -A > {tmp_path}/seen\nexec {sys.executable} slow.py\n")
    (folder / "python").chmod(0o755)
    (folder / "slow.py").write_text(SLOW.format(tidied=tmp_path / "tidied"))
    mine = ("benchmarks", "--python", "./python")
    first = start(one_node, folder, *mine)
    said = []
    while not any("at work" in line for line in said):
        line = first.stderr.readline()
        assert line, first.communicate()
        said.append(line)
    assert sorted((tmp_path / "seen").read_text().split()) == ["notes.md", "python", "slow.py"]
    second = start(one_node, folder, *mine)
    while "following it" not in (line := second.stderr.readline()):
        assert line, second.communicate()
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 4, errors
    assert "which goes on" in errors
    (name,) = [
        n
        for n, job in jobs_of(one_node).items()
        if n.startswith("raypipe-benchmarks-") and job["status"] == "RUNNING"
    ]
    assert jobs_of(one_node)[name]["status"] == "RUNNING"
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=90)
    assert first.returncode == 4, errors
    assert "what was committed stays" in errors
    assert jobs_of(one_node)[name]["status"] == "STOPPED"
    assert (tmp_path / "tidied").exists()
