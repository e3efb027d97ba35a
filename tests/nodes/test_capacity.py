"""What can never be scheduled is refused; what may have to wait is not."""

from __future__ import annotations

import math

import pytest

from raypipe import cluster
from raypipe.capacity import Machine, Machines, Need, machines_of, refuse_impossible
from raypipe.cluster_files.types import NodeType
from raypipe.errors import RequestError

TWO_SMALL = Machines((Machine("a", 4, 2), Machine("b", 4, 2)))


def kind(name: str, cpus: float | None, gpus: float | None, most: int, head: bool = False) -> NodeType:
    return NodeType(name, cpus, gpus, None, 0, most, None, False, head)


GROWING = machines_of([kind("head", 0, 0, 1, head=True), kind("gpu", 96, 8, 4), kind("cpu", 16, 0, 10)], 6)


@pytest.mark.parametrize(
    ("needs", "machines", "said"),
    [
        ([Need("worker", 9, 1)], TWO_SMALL, "needs 9 CPUs, the cluster has 8"),
        ([Need("worker", 1, 1, 5)], TWO_SMALL, "needs 5 GPUs, the cluster has 4"),
        (
            [Need("worker", 1, 1, 4)],
            TWO_SMALL,
            "no node holds one worker of the stage: it takes 1 CPUs and 4 GPUs",
        ),
        ([Need("worker", 2, 3, 1)] * 2, TWO_SMALL, "needs 12 CPUs"),
        ([Need("worker", 3, 1, 1.2)], TWO_SMALL, "2 fit"),
        ([Need("worker", 1, 1, 9)], GROWING, "no node holds one worker"),
        ([Need("worker", 33, 1, 1)], GROWING, "needs 33 GPUs, the cluster has 32 at most"),
        ([Need("worker", 1, 97, 0)], GROWING, r"4 x gpu \(96 CPUs, 8 GPUs\)"),
        ([Need("task", 1, 1)], Machines((Machine("head", 0, 0),)), "needs 1 CPUs, the cluster has 0"),
    ],
)
def test_refused(needs, machines, said):
    with pytest.raises(RequestError, match=said) as refused:
        refuse_impossible("the stage", needs, machines)
    assert "larger cluster" in refused.value.remedy


@pytest.mark.parametrize(
    ("needs", "machines"),
    [
        ([Need("worker", 8, 1)], TWO_SMALL),
        ([Need("worker", 4, 0.5, 1)], TWO_SMALL),
        ([Need("worker", 8, 0.1, 0.5)], TWO_SMALL),
        ([Need("watcher", 5)], TWO_SMALL),
        ([Need("worker", 32, 12, 1)], GROWING),
        ([Need("worker", 1, 0.3)] * 3, Machines((Machine("a", 0.9, 0),))),
        ([Need("worker", 100, 64, 8)], Machines((), may_grow=True, known=False)),
        ([Need("worker", 100, 64, 8)], machines_of([kind("gpu", None, None, 100)])),
    ],
)
def test_not_refused(needs, machines):
    refuse_impossible("the stage", needs, machines)


def test_the_file_of_a_cluster_that_grows_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not cluster._autoscales()
    (tmp_path / "ray_bootstrap_config.yaml").write_text(
        "cluster_name: c\nmax_workers: 2\nprovider: {type: aws}\nhead_node_type: head\n"
        "available_node_types:\n"
        "  head: {resources: {CPU: 0}, node_config: {InstanceType: m7i.large}}\n"
        "  gpu: {resources: {CPU: 96, GPU: 8}, max_workers: 8, node_config: {InstanceType: p5.48xlarge}}\n"
    )
    found = cluster.machines_allowed([])
    assert (found.gpus, found.cpus, found.may_grow) == (16, 192, True)
    assert cluster.machines_allowed([Machine("gpu", 96, 8)]).known
    assert not cluster.machines_allowed([Machine("joined by hand", 128, 0)]).known
    assert cluster._autoscales()
    (tmp_path / "ray_bootstrap_config.yaml").write_text("cluster_name: [")
    assert not cluster.machines_allowed([]).known


def test_kuberay_grows_without_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head  --no-monitor  --num-cpus=2 ")
    assert not cluster.machines_allowed([Machine("head", 2, 0)]).known
    assert cluster.machines_allowed([]).cpus < math.inf


def test_the_limit_of_all_types_together_counts():
    """Types whose own limits add up to more than max_workers: never are all of them there."""
    kinds = [kind("head", 4, 0, 1, head=True), kind("a", 8, 1, 2), kind("b", 16, 1, 2)]
    both = machines_of(kinds, 2)
    assert (both.cpus, both.gpus) == (36, 2)  # the head beside two of the larger ones
    refuse_impossible("the stage", [Need("worker", 2, 8, 1)], both)
    with pytest.raises(RequestError, match="needs 4 GPUs, the cluster has 2 at most"):
        refuse_impossible("the stage", [Need("worker", 4, 8, 1)], both)
    with pytest.raises(RequestError, match="max_workers is 2"):
        refuse_impossible("the stage", [Need("actor", 3, 12)], both)
    assert machines_of(kinds).gpus == 4
