"""A cluster of one node with its own folder, ports and token, for tests that submit jobs.

It is a process tree of the test session and ends with it; no other Ray is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raypipe.chaos.processes import marked_processes
from tests.support import ROOT

RAY = Path(sys.executable).with_name("ray")
TOKEN = secrets.token_hex(32)  # of this session


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@dataclass
class OneNode:
    """The cluster; ``folder`` holds its session and its logs, ``dashboard`` is its address.

    ``metrics`` is where Prometheus would read; values are there two seconds after they were told, at most.
    """

    folder: Path
    dashboard: str
    environ: dict[str, str]
    metrics: str

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(RAY), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=400
        )

    def submit(self, *command: str, runtime: dict | None = None) -> subprocess.CompletedProcess[str]:
        given = ["--runtime-env-json", json.dumps(runtime)] if runtime else []
        return self.ray("job", "submit", "--address", self.dashboard, *given, "--", *command)

    def told(self) -> str:
        """What the job list and the REST address say of all jobs."""
        request = urllib.request.Request(f"{self.dashboard}/api/jobs/")  # noqa: S310
        request.add_header("Authorization", f"Bearer {TOKEN}")
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            body = answer.read().decode()
        listed = self.ray("job", "list", "--address", self.dashboard)
        assert listed.returncode == 0, listed.stderr
        assert "submission_id" in body
        return body + listed.stdout + listed.stderr


@pytest.fixture(scope="session")
def one_node() -> Iterator[OneNode]:
    """Two CPUs; a test leaves no job of its own running."""
    with cluster_of_one() as made:
        yield made


@contextlib.contextmanager
def cluster_of_one(**more: str) -> Iterator[OneNode]:
    """Starts the cluster and ends it.

    Args:
        more: environment variables of the head.
    """
    folder = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    (folder / "home").mkdir()
    mark = f"RAYPIPE_TEST_MARK={uuid.uuid4().hex}"
    gcs, dashboard, agent, rpc, metrics, client = free_ports(6)
    environ = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "OPENAI_API_KEY")}
    environ |= dict([mark.split("=")]) | {
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all of it on loopback, see raypipe/cluster.py
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "RAY_metrics_report_interval_ms": "1000",
        "PATH": f"{RAY.parent}:{os.environ['PATH']}",  # the environment is active, as on a cluster's nodes
    }
    environ |= more
    command = [
        *(str(RAY), "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder / 'ray'}"),
        *(f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={rpc}"),
        *(f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}"),
        *("--node-ip-address=127.0.0.1", "--object-store-memory=200000000"),
    ]
    with open(folder / "head.log", "wb") as log:
        head = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    at = "http://127.0.0.1"
    made = OneNode(folder, f"{at}:{dashboard}", environ, f"{at}:{metrics}/metrics")
    try:
        deadline = time.monotonic() + 120
        while True:
            assert head.poll() is None, (folder / "head.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the cluster never came up"
            with contextlib.suppress(OSError, AssertionError):
                if made.ray("job", "list", "--address", made.dashboard).returncode == 0:
                    break
        yield made
    finally:
        for pid in marked_processes(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
