"""The cluster that all tests of this folder share, and the runs they start from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raypipe.demo.draw import DrawSettings, draw
from tests.cluster.hosts import why_not
from tests.cluster.lab import Lab

DRAWN = DrawSettings(train_clips=8, train_images=8, heldout_clips=24, heldout_images=12)
PREPARE = ("datasets/demo_ft_videos.yaml", "drawn=null", "data_root=s3://lab/data/DATA_ROOT")


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts and storage, with drawn data; no Ray yet."""
    if reason := why_not():
        pytest.skip(f"no hosts: {reason}")
    folder = tmp_path_factory.mktemp("lab")
    lab = Lab(folder)
    try:
        lab.put_tree(draw(folder / "drawn", DRAWN), "data")
        lab.tell("data is on S3")
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="session")
def lab(hosts: Lab) -> Lab:
    """The cluster is up, and the worker has joined. The test of ``ray down`` ends it."""
    hosts.up()
    return hosts


@pytest.fixture(scope="session")
def prepared(lab: Lab) -> str:
    """Shards on S3, made on the cluster."""
    out = "s3://lab/prepared/videos"
    lab.ended("prepare", lab.submit("prepare", "prepare", *PREPARE, f"out={out}"))
    return out


@pytest.fixture(scope="session")
def plain(lab: Lab, prepared: str) -> str:
    """A finetuning on both hosts that nobody disturbed."""
    job = lab.finetune("plain", prepared, "workers={num: 2, cpus: 2}")
    lab.wait("a rank on each host", lambda: all(lab.at_work(host, RANK) for host in lab.all_hosts))
    lab.tell("plain: each host has a rank")
    lab.ended("plain", job)
    return "plain"


RANK = "RayTrainWorker"  # as Ray names the process of a rank
