"""raypipe plan against a Ray that runs."""

import pytest

from raypipe.planning.machines import of_running

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_local")]


def test_nodes_of_the_running_cluster_are_counted(monkeypatch):
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    found = of_running()
    assert found.where == "the cluster at auto"
    assert sum(kind.count * kind.cpus for kind in found.kinds) == ray.cluster_resources()["CPU"]
    assert all(kind.usd_per_hour is None for kind in found.kinds)
