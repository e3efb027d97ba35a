"""What is said when there is no connection to Ray."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from raypipe.cluster import _turn_on_authentication, connected, not_connected
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


@pytest.fixture
def token_at(monkeypatch, tmp_path):
    """Turns authentication on, with the token at a place; without one, below this home folder."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def turned_on(place: str | Path | None = None) -> None:
        if place is not None:
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(place))
        _turn_on_authentication()

    return turned_on


def test_a_token_is_made_closed_and_one_that_is_there_is_kept_and_closed(token_at, tmp_path):
    token_at()
    made = tmp_path / "home/.ray/auth_token"
    assert (len(made.read_text()), made.stat().st_mode & 0o777) == (64, 0o600)
    assert made.parent.stat().st_mode & 0o777 == 0o700
    mine = tmp_path / "mine"
    mine.write_text("the cluster's")
    mine.chmod(0o644)
    token_at(mine)
    assert (mine.read_text(), mine.stat().st_mode & 0o777) == ("the cluster's", 0o600)
    token_at("~/other")
    assert (tmp_path / "home/other").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "place", ["folder", "pipe", "file/x", "/proc/nope/token", "~nobody-of-this-name/token", "x" * 300]
)
def test_where_no_token_can_be_is_refused_by_its_variable_and_left_alone(token_at, tmp_path, place):
    (tmp_path / "folder").mkdir(mode=0o755)
    os.mkfifo(tmp_path / "pipe", 0o644)
    (tmp_path / "file").write_text("")
    before = {file: file.stat().st_mode for file in tmp_path.iterdir()}
    with pytest.raises(RequestError) as refused:
        token_at(place if place.startswith("~") else tmp_path / place)
    assert "RAY_AUTH_TOKEN_PATH" in refused.value.message
    assert place[-20:] in refused.value.message
    assert refused.value.remedy
    assert {file: file.stat().st_mode for file in tmp_path.iterdir()} == before


def test_a_home_that_takes_no_token_is_no_fault_of_the_request(token_at, tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(ServiceError) as refused:
        token_at()
    assert "~/.ray/auth_token (Not a directory)" in refused.value.message
    assert "RAY_AUTH_TOKEN_PATH" in refused.value.remedy
