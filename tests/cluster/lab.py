"""A Ray cluster on hosts of its own, brought up by ``ray up`` from a laptop, with an S3 server beside it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import yaml

from tests.cluster.hosts import Network
from tests.support import ROOT
from tests.support.s3 import environment

S3_PORT, DASHBOARD = 5000, "http://127.0.0.1:8265"
CPUS = 3  # of each host, as Ray counts them: what asks for two finds room for one on a host
STORE_BYTES = 200_000_000
WAIT_S = 150.0
# A dead host is noticed after five unanswered checks; Ray asks every three seconds unless told otherwise.
HEALTH = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000"}
BUCKET = "lab"


class Lab:
    """The laptop, the S3 server on it, a head and workers; ``log`` is a list of what was done and its seconds."""

    def __init__(self, folder: Path) -> None:
        self.begun, self.folder = time.monotonic(), folder
        self.network = Network(folder)
        self.laptop = self.network.laptop
        self.s3_url = f"http://{self.laptop.address}:{S3_PORT}"
        self.laptop.environ |= self.environ
        words = ["-m", "moto.server", "-H", self.laptop.address, "-p", str(S3_PORT)]
        self.laptop.start(sys.executable, *words, log="s3.log")
        self.head = self.network.add("head", 2, self.environ)
        self.workers = {"worker": self.network.add("worker", 3, self.environ)}
        known = environment(self.s3_url)
        self._s3 = boto3.client(  # not s3fs: its connections belong to a thread in another network
            "s3",
            endpoint_url=self.s3_url,
            region_name=known["AWS_DEFAULT_REGION"],
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
        )
        self.wait("the S3 server", self._make_bucket)
        self.tell("hosts and S3 server are up")

    @property
    def environ(self) -> dict[str, str]:
        """What a login shell of every host has: where the storage is, and thrift."""
        return {
            **environment(self.s3_url),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
        }

    def tell(self, what: str) -> None:
        """A line of the log: seconds since the start, and what has been done."""
        print(f"[{time.monotonic() - self.begun:6.1f} s] {what}", file=sys.stderr, flush=True)

    def wait(self, what: str, there: Callable[[], Any], limit_s: float = WAIT_S) -> Any:
        """Looks again until there is something; its value.

        Raises:
            AssertionError: there was nothing in time.
        """
        end = time.monotonic() + limit_s
        while not (found := there()):
            assert time.monotonic() < end, f"waited {limit_s:.0f} s for {what}\n{self.ray_logs()}"
            time.sleep(0.2)
        return found

    # The storage, as the test sees it.

    def names(self, prefix: str) -> list[str]:
        """Names of objects in the bucket."""
        with self.network.inside():
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
            return [row["Key"] for page in pages for row in page.get("Contents", [])]

    def read(self, name: str) -> bytes:
        with self.network.inside():
            return bytes(self._s3.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def put_tree(self, tree: Path, prefix: str) -> None:
        with self.network.inside():
            for file in sorted(p for p in tree.rglob("*") if p.is_file()):
                key = f"{prefix}/{file.relative_to(tree).as_posix()}"
                self._s3.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())

    def _make_bucket(self) -> bool:
        try:
            with self.network.inside():
                self._s3.create_bucket(Bucket=BUCKET)
            return True
        except botocore.exceptions.EndpointConnectionError:
            return False

    # The cluster, as its user does.

    def up(self) -> None:
        """``ray up`` with a token made for it; ends when every host has joined and the dashboard is at the laptop."""
        make = "umask 077; mkdir -p ~/.ray; ray get-auth-token --generate > /dev/null; chmod 600 ~/.ray/auth_token"
        self.laptop.run("sh", "-c", make)
        (self.laptop.folder / "home/cluster.yaml").write_text(yaml.safe_dump(self.cluster_yaml()))
        self.laptop.run("ray", "up", "-y", "--no-config-cache", self._yaml)
        self.tell("ray up: the head is there")
        self.tunnel = self.laptop.start("ray", "dashboard", self._yaml, log="dashboard.log")
        self.wait("all hosts", lambda: len(self.nodes()) == 1 + len(self.workers))
        self.tell("the worker has joined")

    def down(self) -> None:
        """``ray down``; with machines that are not a cloud's, Ray stops the head alone, and workers must be told."""
        self.tunnel.terminate()
        self.tunnel.wait(30)
        self.laptop.run("ray", "down", "-y", self._yaml)
        for worker in self.workers.values():
            self.network.ssh(worker, "ray stop")
        self.tell("ray down")

    def nodes(self) -> list[str]:
        """Addresses of the hosts that Ray counts as alive."""
        try:
            told = json.loads(self.dashboard("/api/v0/nodes?detail=false") or b"{}")
        except ValueError:
            return []
        rows = told.get("data", {}).get("result", {}).get("result", [])
        return sorted(row["node_ip"] for row in rows if row["state"] == "ALIVE")

    def dashboard(self, path: str, token: str | None = None) -> bytes | None:
        """What the dashboard answers at the laptop's end of the tunnel; None where it does not."""
        token = (self.laptop.folder / "home/.ray/auth_token").read_text() if token is None else token
        request = urllib.request.Request(DASHBOARD + path, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
        with self.network.inside(), contextlib.suppress(urllib.error.URLError, OSError):
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                return bytes(answer.read())
        return None

    def submit(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Submits a job from the laptop and follows it; ends with its exit code, its log is ``NAME.log``."""
        words = ["ray", "job", "submit", "--address", DASHBOARD, "--working-dir", str(ROOT), "--", "python"]
        return self.laptop.start(*words, *command, log=f"{name}.log")

    def ended(self, name: str, job: subprocess.Popen[bytes], limit_s: float = 300) -> str:
        """Waits for a job's end; its log.

        Raises:
            AssertionError: it did not end with exit code 0.
        """
        try:
            code: int | None = job.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        said = self.laptop.said(f"{name}.log")
        assert code == 0, f"{name}: {code}\n{said[-12000:]}"
        self.tell(f"{name} is done")
        return said

    @property
    def _yaml(self) -> str:
        return f"{self.laptop.home}/cluster.yaml"

    def cluster_yaml(self) -> dict[str, Any]:
        start = f"ray start --num-cpus={CPUS} --object-store-memory={STORE_BYTES} --object-manager-port=8076"
        health = " ".join(f"{k}={v}" for k, v in (HEALTH | {"RAY_enable_autoscaler_v2": "0"}).items())
        return {
            "cluster_name": "lab",
            "provider": {"type": "local", "head_ip": self.head.address, "worker_ips": [w.address for w in self.workers.values()]},
            "auth": {"ssh_user": "root", "ssh_private_key": f"{self.laptop.home}/.ssh/key"},
            "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
            "head_start_ray_commands": [
                "ray stop",
                f"{health} {start} --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
            ],
            "worker_start_ray_commands": ["ray stop", f"{start} --address=$RAY_HEAD_IP:6379"],
        }

    def ray_logs(self) -> str:
        told = []
        for host in (self.head, *self.workers.values()):
            for file in sorted((host.folder / "tmp/ray").glob("session_2*/logs/*")):
                if file.name in ("monitor.out", "monitor.err", "monitor.log", "gcs_server.out"):
                    told.append(f"--- {host.name} {file.name}\n{file.read_text(errors='replace')[-6000:]}")
        return "\n".join(told)
