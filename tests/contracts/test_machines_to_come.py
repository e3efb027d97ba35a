"""Whether a request that does not fit waits for nodes or is refused. No Ray is started."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import yaml

from raypipe.cluster import all_cpus, require
from raypipe.errors import RequestError

OWN = {"provider": {"type": "local", "head_ip": "192.0.2.1", "worker_ips": ["192.0.2.2", "192.0.2.3"]}}
CLOUD = {"provider": {"type": "aws", "region": "us-west-2"}}


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ``ray up`` leaves its file on the head; the cluster has 8 CPUs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    return tmp_path / "ray_bootstrap_config.yaml"


def alive(monkeypatch: pytest.MonkeyPatch, count: int, dead: int = 0) -> None:
    nodes = [{"Alive": True}] * count + [{"Alive": False}] * dead
    monkeypatch.setattr(ray, "nodes", lambda: nodes)


def test_without_ray_up_there_is_what_there_is(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive(monkeypatch, 1)
    assert all_cpus() == 8.0
    with pytest.raises(RequestError, match="needs 9 CPUs, the cluster has 8"):
        require(9, 0, "the stage")


def test_a_cloud_may_add_nodes(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head.write_text(yaml.safe_dump(CLOUD))
    alive(monkeypatch, 40)
    assert all_cpus() is None
    require(9, 1, "the stage")


def test_machines_that_have_not_joined_are_waited_for(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head.write_text(yaml.safe_dump(OWN))
    alive(monkeypatch, 2, dead=1)
    assert all_cpus() is None
    require(9, 1, "the stage")


def test_when_all_machines_are_there_none_will_come(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head.write_text(yaml.safe_dump(OWN))
    alive(monkeypatch, 3, dead=2)
    assert all_cpus() == 8.0
    require(8, 0, "the stage")
    with pytest.raises(RequestError, match="needs 1 GPUs, the cluster has 0"):
        require(8, 1, "the stage")


def test_a_file_that_cannot_be_read_does_not_refuse(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head.write_text("provider: [")
    alive(monkeypatch, 1)
    require(9, 1, "the stage")
