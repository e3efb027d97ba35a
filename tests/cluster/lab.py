"""A Ray cluster on hosts of its own, brought up by ``ray up`` from a laptop, with an S3 server beside it."""

from __future__ import annotations

import json
import shutil
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

from tests.cluster.hosts import ENDS_WITH_US, HOME, Host, Network
from tests.support import ROOT
from tests.support.s3 import environment

S3_PORT, DASHBOARD = 5000, "http://127.0.0.1:8265"
CPUS = 3  # of each host, as Ray counts them: what asks for two finds room for one on a host
STORE_BYTES = 200_000_000
WAIT_S = 150.0
# A dead host is noticed after five unanswered checks; Ray asks every three seconds unless told otherwise.
HEALTH = "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000 "
YAML = f"{HOME}/cluster.yaml"
STEPS = 100
FINETUNE = (
    *(f"steps={STEPS}", "global_batch=16", "micro_batch=4", "max_tokens=256"),
    "rates={language_model: 1.0e-4, multi_modal_projector: 1.0e-4}",
    "checkpoint={every_steps: 20, keep: 20}",
)
BUCKET = "lab"


class Lab:
    """The laptop, the S3 server on it, a head and workers."""

    def __init__(self, folder: Path) -> None:
        self.begun, self.folder = time.monotonic(), folder
        # What `ray stop` on a host would end, if it reached the machine's processes.
        shutil.copy(shutil.which("sleep") or "/bin/sleep", folder / "raylet")
        self.bystander = subprocess.Popen([*ENDS_WITH_US, str(folder / "raylet"), "3600"])
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
            "RAY_AUTH_MODE": "token",  # for the commands at the laptop, too
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
        }

    def close(self) -> None:
        """Ends all hosts, as they are."""
        self.network.close()
        self.bystander.kill()
        self.bystander.wait()

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
        """``ray up`` with a token made for it; ends when all have joined and the tunnel is dug."""
        make = "mkdir -p ~/.ray; ray get-auth-token --generate > /dev/null; chmod 600 ~/.ray/auth_token"
        self.laptop.run("sh", "-c", f"umask 077; {make}")
        (self.laptop.home / "cluster.yaml").write_text(yaml.safe_dump(self.cluster_yaml(), sort_keys=False))
        self.laptop.run("ray", "up", "-y", "--no-config-cache", YAML)
        self.tell("ray up: the head is there")
        self.connect()
        self.wait("all hosts", lambda: len(self.nodes()) == 1 + len(self.workers))
        self.tell("the worker has joined")

    def connect(self) -> None:
        """``ray dashboard``: a tunnel to the head's loopback."""
        self.tunnel = self.laptop.start("ray", "dashboard", YAML, log="dashboard.log")

    def down(self) -> None:
        """``ray down``; on machines of one's own Ray stops the head alone, and workers must be told."""
        self.tunnel.terminate()
        self.tunnel.wait(30)
        self.laptop.run("ray", "down", "-y", YAML)
        for worker in self.workers.values():
            self.network.ssh(worker, "ray stop")
        self.tell("ray down")

    def nodes(self) -> list[str]:
        """Addresses of the hosts that Ray counts as alive."""
        try:
            told = json.loads(self.dashboard("/api/v0/nodes"))
        except (OSError, ValueError):  # the tunnel is not dug yet
            return []
        rows = told.get("data", {}).get("result", {}).get("result", [])
        return sorted(row["node_ip"] for row in rows if row["state"] == "ALIVE")

    def dashboard(self, path: str, token: str | None = None) -> bytes:
        """What the dashboard answers at the laptop's end of the tunnel.

        Raises:
            urllib.error.URLError: it refuses, or is not there.
        """
        token = (self.laptop.home / ".ray/auth_token").read_text() if token is None else token
        request = urllib.request.Request(DASHBOARD + path, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
        with self.network.inside(), urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return bytes(answer.read())

    @property
    def all_hosts(self) -> list[Host]:
        """The cluster's; the laptop is not one of them."""
        return [self.head, *self.workers.values()]

    def at_work(self, host: Host, what: str) -> list[str]:
        """Command lines of Ray's processes on a host that are so called."""
        return [line for line in host.processes().values() if what in line]

    def whole(self) -> None:
        """Puts the worker's cable back, and waits until it counts again."""
        self.network.join(self.workers["worker"])
        self.wait("the worker", lambda: len(self.nodes()) == len(self.all_hosts))
        self.tell("all hosts are there")

    def submit(self, name: str, verb: str, *settings: str) -> subprocess.Popen[bytes]:
        """Submits a job from the laptop and follows it; ends with its exit code, its log is ``NAME.log``."""
        return self.laptop.start("raypipe", "submit", verb, *settings, log=f"{name}.log")

    def finetune(self, name: str, shards: str, *settings: str) -> subprocess.Popen[bytes]:
        """A finetuning of some 30 seconds, with a checkpoint every four or so; its run is ``runs/NAME``."""
        given = [f"mixture=[{{data: {shards}}}]", f"out=s3://{BUCKET}/runs/{name}", *FINETUNE, *settings]
        words = ["ray", "job", "submit", "--address", DASHBOARD, "--working-dir", ".", "--", "python"]
        return self.laptop.start(
            *words, "jobs/finetune.py", "jobs/demo_finetune.yaml", *given, log=f"{name}.log"
        )

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

    def cluster_yaml(self) -> dict[str, Any]:
        """The project's own file for such machines, at these hosts.

        What is changed: the addresses; raypipe is there and need not be installed; how many CPUs each host is
        said to have, and the head works, too; dead hosts are noticed sooner.
        """
        config = yaml.safe_load((ROOT / "cluster/on_premise.yaml").read_text())
        config["provider"]["head_ip"] = self.head.address
        config["provider"]["worker_ips"] = [w.address for w in self.workers.values()]
        del config["file_mounts"]["~/raypipe_source"]
        config["setup_commands"] = [c for c in config["setup_commands"] if "raypipe_venv" not in c]
        given = f"ray start --num-cpus={CPUS} --object-store-memory={STORE_BYTES}"
        for kind, prefix in (("head", HEALTH), ("worker", "")):
            commands = [c.replace("--num-cpus=0 ", "") for c in config[f"{kind}_start_ray_commands"]]
            config[f"{kind}_start_ray_commands"] = [
                prefix + c.replace("ray start", given) if "ray start" in c else c for c in commands
            ]
        return config

    def ray_logs(self) -> str:
        told = []
        for host in (self.head, *self.workers.values()):
            for file in sorted((host.folder / "tmp/ray").glob("session_2*/logs/*")):
                if file.name in ("monitor.out", "monitor.err", "monitor.log", "gcs_server.out"):
                    told.append(f"--- {host.name} {file.name}\n{file.read_text(errors='replace')[-6000:]}")
        return "\n".join(told)
