"""Whether a request that does not fit waits for nodes or is refused. No Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import yaml

from raypipe.capacity import Need
from raypipe.cluster import HEAD, all_cpus, machines, require
from raypipe.errors import RequestError

OWN = {"provider": {"type": "local", "head_ip": "192.0.2.1", "worker_ips": ["192.0.2.2", "192.0.2.3"]}}
CLOUD = {"provider": {"type": "aws", "region": "us-west-2"}}


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ``ray up`` leaves its file on the head."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "ray_bootstrap_config.yaml"


class Here:
    """The node that this process is on."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get_node_id(self) -> str:
        return self.name


def alive(monkeypatch: pytest.MonkeyPatch, count: int, dead: int = 0, here: str = "n0") -> None:
    """Nodes of 4 CPUs each, n0 is the head."""
    there = {"NodeManagerHostname": "n", "NodeManagerAddress": "192.0.2.9"}
    nodes = [
        {
            **there,
            "NodeID": f"n{number}",
            "Alive": number < count,
            "Resources": {"CPU": 4.0} | ({} if number else {HEAD: 1.0}),
        }
        for number in range(count + dead)
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0 * count})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: Here(here))


def test_without_ray_up_there_is_what_there_is(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive(monkeypatch, 2)
    assert all_cpus() == 8.0
    assert not machines().may_grow


def test_a_cloud_may_add_nodes(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head.write_text(yaml.safe_dump(CLOUD))
    alive(monkeypatch, 40)
    assert all_cpus() is None


def test_machines_that_have_not_joined_are_waited_for(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head.write_text(yaml.safe_dump(OWN))
    alive(monkeypatch, 2, dead=1)
    assert all_cpus() is None
    assert machines().may_grow


def test_when_all_machines_are_there_none_will_come(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head.write_text(yaml.safe_dump(OWN))
    alive(monkeypatch, 3, dead=2)
    assert all_cpus() == 12.0
    require("the stage", Need("workers", 3, cpus=4))
    with pytest.raises(RequestError, match="the stage"):
        require("the stage", Need("workers", 3, cpus=4, gpus=1))


def test_a_file_that_cannot_be_read_does_not_refuse(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head.write_text("provider: [")
    alive(monkeypatch, 1)
    assert all_cpus() is None


def test_elsewhere_than_on_the_head_nobody_knows(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of a search begins on a CPU node of a cluster whose GPU nodes are yet to be started."""
    on_gpus = Need("worker", 2, 4.0, 1.0)
    alive(monkeypatch, 3)
    with pytest.raises(RequestError, match="the cluster has 0"):
        require("the stage", on_gpus)
    alive(monkeypatch, 3, here="n2")
    require("the stage", on_gpus)
    assert all_cpus() is None
