"""What `ray up cluster.yaml` does to a new head: each ssh, rsync and docker command it would run.

EC2 is moto's; the commands are Ray's own, in its order, given to a recorder that answers as a machine does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.moto_cluster import bootstrapped

TOKEN, KEY = "0123456789abcdef0123456789abcdef", "a key for ssh"


class Recorder:
    """Stands where Ray's launcher has the subprocess module."""

    CalledProcessError, PIPE, STDOUT = subprocess.CalledProcessError, subprocess.PIPE, subprocess.STDOUT

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.files: dict[str, str] = {}
        self.running = False

    def check_call(self, command: list[str], *_: Any, **__: Any) -> int:
        self.ran(command)
        return 0

    def check_output(self, command: list[str], *_: Any, **__: Any) -> bytes:
        return self.ran(command)

    def ran(self, command: list[str]) -> bytes:
        text = " ".join(command)
        self.commands.append(text)
        if command[0] == "rsync":
            source, target = command[-2:]
            if os.path.isfile(source):
                self.files[target.partition(":")[2]] = Path(source).read_text(encoding="utf-8")
        if " docker run " in text:
            self.running = True
        if ".State.Running" in text:
            return b"true" if self.running else b"false"
        if ".Config.Env" in text:
            return b'["PATH=/usr/bin", "HOME=/home/ray"]'
        if "printenv HOME" in text:
            return b"/home/ray"
        if ".Runtimes" in text:
            return b"map[nvidia:{nvidia-container-runtime []} runc:{runc []}]"
        if "/proc/meminfo" in text:
            return b"MemAvailable: 31000000 kB"
        if "command -v docker" in text:
            return b"/usr/bin/docker"
        return b""

    def at(self, pattern: str) -> int:
        """The number of the first command that holds a pattern."""
        found = [i for i, c in enumerate(self.commands) if re.search(pattern, c)]
        assert found, f"no command holds {pattern}"
        return found[0]


@pytest.fixture
def up(moto_cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The commands of one `ray up` of a cluster that is not there yet."""
    from ray.autoscaler._private import command_runner
    from ray.autoscaler._private.aws import node_provider
    from ray.autoscaler._private.commands import get_or_create_head_node

    for name, text in ((".ray/auth_token", TOKEN), (".ssh/raypipe.pem", KEY), ("repo/raypipe/cli.py", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path / "repo")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(node_provider, "TAG_BATCH_DELAY", 0)
    recorder = Recorder()
    monkeypatch.setattr(command_runner, "run_cmd_redirected", lambda command, **_: recorder.ran(command))
    ready = bootstrapped(moto_cluster)
    provider = node_provider.AWSNodeProvider(ready["provider"], ready["cluster_name"])
    get_or_create_head_node(
        ready,
        printable_config_file="cluster.yaml",
        no_restart=False,
        restart_only=False,
        yes=True,
        override_cluster_name=None,
        _provider=provider,
        _runner=recorder,  # type: ignore[arg-type]
    )
    return recorder


def test_a_head_comes_up_as_it_is_meant(up: Recorder) -> None:
    order = [
        up.at(r"^rsync .*\.ray/auth_token"),
        up.at(r"mkdir -p /mnt/raypipe"),
        up.at(r"mount -t nfs4"),
        up.at(r"chown 1000 /mnt/raypipe"),
        up.at(r"docker pull"),
        up.at(r"docker run"),
        up.at(r"docker exec .*chown ray /home/ray/\.ray && .*chmod 600 /home/ray/\.ray/auth_token"),
        up.at(
            r"docker exec .*pip install -c /home/ray/raypipe_source/constraints\.txt /home/ray/raypipe_source"
        ),
        up.at(r"docker exec .*pip install .*boto3"),
        up.at(r"docker exec .*RAY_AUTH_MODE=token ray start --head .*--dashboard-host=127\.0\.0\.1"),
    ]
    assert order == sorted(order)
    start = up.commands[order[-1]]
    assert "RAY_OVERRIDE_RESOURCES" in start
    assert '{"CPU":0}' in start
    assert "--autoscaling-config=/home/ray/ray_bootstrap_config.yaml" in start

    run = up.commands[up.at(r"docker run")]
    words = run[run.index("docker run") :].split()
    pairs = list(pairwise(words))
    assert ("-e", "RAY_AUTH_MODE=token") in pairs
    assert ("-v", "/mnt/raypipe:/home/ray/raypipe") in pairs
    (token,) = [after for word, after in pairs if word == "-v" and "auth_token" in after]
    assert token.endswith(":/home/ray/.ray/auth_token")
    assert "--shm-size=" in run  # Ray's own measure of this machine
    assert not {"--privileged", "--pid=host", "--ipc=host"} & set(words)

    assert all(TOKEN not in c and KEY not in c for c in up.commands)  # they travel as files
    sent = {Path(name).name: text for name, text in up.files.items()}
    assert (sent["auth_token"], sent["ray_bootstrap_key.pem"]) == (TOKEN, KEY)
    bootstrap = json.loads(sent["ray_bootstrap_config.yaml"])
    assert bootstrap["auth"]["ssh_private_key"] == "~/ray_bootstrap_key.pem"
    assert bootstrap["available_node_types"]["gpu"]["node_config"]["IamInstanceProfile"] == {
        "Name": "raypipe-worker"
    }
    assert TOKEN not in sent["ray_bootstrap_config.yaml"]
