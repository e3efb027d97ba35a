"""Where ranks listen for each other, and what is said when they do not meet. No Ray is started."""

from __future__ import annotations

import os

import psutil
import pytest
import ray
from ray.exceptions import RayTaskError
from ray.train import ControllerError

from raypipe.cluster import unwrapped
from raypipe.errors import RaypipeError
from raypipe.train.meeting import interface_of, listen_at_node_address

NOWHERE = "203.0.113.9"  # of the documentation's addresses: no machine has it


def at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)


def test_the_interface_of_an_address() -> None:
    name = interface_of("127.0.0.1")
    assert name is not None
    assert "127.0.0.1" in [held.address for held in psutil.net_if_addrs()[name]]
    assert interface_of(NOWHERE) is None


def test_a_rank_listens_at_its_nodes_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is taken back in the end
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    at(monkeypatch, NOWHERE)
    listen_at_node_address()
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    at(monkeypatch, "127.0.0.1")
    listen_at_node_address()
    assert os.environ["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1")


def test_what_the_user_has_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen0")
    at(monkeypatch, "127.0.0.1")
    listen_at_node_address()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen0"


def test_ranks_that_do_not_meet_are_told_with_the_cause() -> None:
    cause = RuntimeError("Gloo connectFullMesh failed: Connection refused, remote=[127.0.0.1]")
    wrapped = RayTaskError("_setup_torch_process_group", "\n".join(["Traceback", "^" * 200, "..."]), cause)
    with pytest.raises(RaypipeError) as told, unwrapped("train x"):
        raise ControllerError(wrapped)
    assert "a worker failed: RuntimeError: Gloo connectFullMesh failed" in told.value.message
