"""What is said when there is no connection to Ray."""

from __future__ import annotations

import socket

import pytest

from raypipe.cluster import connected, not_connected
from raypipe.errors import RequestError, ServiceError


def mismatch(cluster: tuple[str, str]) -> Exception:
    """Ray's own refusal of a cluster with these versions of Ray and Python."""
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as refused:
        check_version_info({"ray_version": cluster[0], "python_version": cluster[1]}, "node 10.0.0.2")
    return refused.value


@pytest.mark.parametrize("cluster", [("2.59.0", "3.11.7"), ("2.60.0", "3.12.4")])
def test_another_ray_or_python_is_named(cluster):
    said = not_connected(mismatch(cluster), "10.0.0.1:6379").render()
    assert f"has Ray {cluster[0]} on Python {cluster[1]}, and this is Ray " in said
    assert "raypipe submit" in said
    assert len(said.splitlines()) <= 8


def test_other_reasons_are_one_line():
    said = not_connected(ConnectionError("no node there\nand\nmuch\nmore"), "10.0.0.1:6379").render()
    assert said.splitlines()[0] == "error: cannot connect to Ray: no node there"
    assert "RAY_AUTH_TOKEN_PATH" in said
    assert "session_latest" in not_connected(ConnectionError(""), None).render()


def test_the_dashboards_address_is_no_cluster_to_join(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(RequestError, match="a dashboard") as refused, connected():
        pass
    assert "raypipe submit" in refused.value.remedy


@pytest.mark.parametrize(
    ("named", "asked"), [(None, "local"), ("local", "local"), ("10.0.0.1:6379", "10.0.0.1:6379")]
)
def test_only_a_cluster_that_is_named_is_joined(monkeypatch, named, asked):
    """Ray by itself joins what ``ray start`` has noted in /tmp/ray, or hangs where that is gone."""
    import ray

    given = {}

    def init(**options):
        given.update(options)
        raise ConnectionError("not tried")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("raypipe.cluster._refuse_silent", lambda address: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    with pytest.raises(ServiceError, match="not tried"), connected():
        pass
    assert given["address"] == asked
    assert ("dashboard_host" in given) is (asked == "local")


@pytest.mark.parametrize("port", [None, "70000000"])
def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch, port):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = port or server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray would ask for minutes"))
    with pytest.raises(ServiceError) as fault, connected():
        pass
    assert f"nobody answers at 127.0.0.1:{port}" in fault.value.message
    assert "RAY_ADDRESS" in fault.value.remedy
