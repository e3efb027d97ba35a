"""What answers at an address: something that speaks no HTTP, and a body longer than is read."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raypipe.doctor import access
from raypipe.doctor.checks import Asked
from raypipe.doctor.host import Host
from tests.doctor.described import Described, node


@contextmanager
def answering(said: bytes) -> Iterator[int]:
    """A port on loopback that answers the next request with some bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(said)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(timeout=20)


def test_what_speaks_no_http_does_not_answer():
    with answering(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        assert Host().fetch(f"http://127.0.0.1:{port}/") is None


@pytest.mark.parametrize(("most", "body", "cut"), [(4, "abcd", False), (3, "abc", True)])
def test_of_a_longer_answer_the_beginning_is_read(most, body, cut):
    with answering(b"HTTP/1.0 200 OK\r\n\r\nabcd") as port:
        answer = Host().fetch(f"http://127.0.0.1:{port}/", most=most)
    assert (answer.body, answer.cut) == (body, cut)


def found(machine: Described) -> list[tuple[str, str]]:
    machine.environ["RAY_ADDRESS"] = "http://head:8265"
    return [(str(f.level), f.found) for f in access.nodes(machine, Asked())]


def test_the_nodes_of_a_large_cluster_are_read_whole(monkeypatch):
    machine = Described()
    machine.runs_ray("http://head:8265", nodes=[node(f"10.0.0.{n}") for n in range(9)])
    assert found(machine) == [("ok", "9 alive, with room on their disks")]
    monkeypatch.setattr(access, "SUMMARY", 1000)
    ((level, said),) = found(machine)
    assert level == "warn"
    assert "none was looked at" in said
