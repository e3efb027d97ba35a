"""A whole run by ``ray job submit`` on a cluster of its own: the key of the judge is nowhere but in its file.

The same search finds a key that is planted where Ray's own way puts one, so that it cannot pass by looking
away. The cluster is a process tree of this test, with its own folder and ports, and nothing else is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.eval_media import eval_root
from tests.support.hooked import marked_processes
from tests.support.judge_endpoint import JudgeEndpoint

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

RAY = Path(sys.executable).with_name("ray")
TOKEN = "b7" * 32


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@dataclass
class Cluster:
    """One node; ``folder`` holds its session and its logs."""

    folder: Path
    dashboard: str
    environ: dict[str, str]

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


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    mark = f"RAYPIPE_TEST_MARK={uuid.uuid4().hex}"
    gcs, dashboard, agent, rpc, metrics, client = free_ports(6)
    environ = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "OPENAI_API_KEY")}
    environ |= dict([mark.split("=")]) | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
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
    made = Cluster(folder, f"http://127.0.0.1:{dashboard}", environ)
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


@dataclass
class Watch(threading.Thread):
    """Looks at every process of the machine, again and again, for texts in what it was started with."""

    texts: list[str]
    seen: dict[str, set[str]] = field(default_factory=dict)
    looked: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.own = os.getpid()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        while not self.stop.wait(0.05):
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit() and int(folder.name) != self.own:
                    for name in ("cmdline", "environ"):
                        with contextlib.suppress(OSError):
                            self._look(f"{name} of {folder.name}", (folder / name).read_bytes())

    def _look(self, where: str, data: bytes) -> None:
        self.looked += 1
        for text in self.texts:
            if text.encode() in data:
                self.seen.setdefault(text, set()).add(where)

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


def files_with(text: str, *folders: Path) -> list[str]:
    """The files that hold a text, in their names or their bytes."""
    found = []
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file() and (text.encode() in file.read_bytes() or text in str(file)):
                found.append(str(file))
    return found


def test_the_key_of_the_judge_is_found_nowhere(cluster, tiny_folder, tmp_path):
    canary, planted = (f"sk-canary-{uuid.uuid4().hex}" for _ in range(2))
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "key").write_text(canary)
    root, out = eval_root(tmp_path / "eval"), tmp_path / "run"
    report, cwd = tmp_path / "report", str(ROOT)
    with JudgeEndpoint() as endpoint, Watch([canary, planted]) as watch:
        evaluated = cluster.submit(
            *(sys.executable, f"{cwd}/jobs/evaluate.py", f"model={tiny_folder}", f"eval_root={root}"),
            *(f"out={out}", "actors=1", "actor_gpus=0", "actor_cpus=1", "precision=fp32", "max_new_tokens=4"),
            *(f"judge.base_url={endpoint.base_url}", f"judge.key_file={secrets / 'key'}"),
        )
        assert evaluated.returncode == 0, evaluated.stdout[-3000:] + evaluated.stderr[-3000:]
        sent = {call.headers["authorization"] for call in endpoint.calls}
        made = cluster.submit(sys.executable, "-m", "raypipe.cli", "report", str(out), f"out={report}")
        assert made.returncode == 0, made.stdout[-3000:]
        before = dict(watch.seen)
        plant = cluster.submit(
            sys.executable, "-c", "import time; time.sleep(2)", runtime={"env_vars": {"KEY": planted}}
        )
        assert plant.returncode == 0, plant.stderr[-3000:]
    assert sent == {f"Bearer {canary}"}  # it was read, and used
    assert (out / "scores.json").is_file()
    assert (report / "report.html").is_file()
    assert watch.looked > 1000
    # What is not looked for at the right places would not be found there either.
    assert watch.seen.get(planted)
    assert files_with(planted, cluster.folder)
    assert planted in cluster.told()
    assert before.get(canary) is None
    assert watch.seen.get(canary) is None
    assert files_with(canary, out, report, cluster.folder, root) == []
    assert canary not in cluster.told()
    for said in (evaluated, made):
        assert canary not in said.stdout + said.stderr
    assert files_with(canary, tmp_path) == [str(secrets / "key")]
