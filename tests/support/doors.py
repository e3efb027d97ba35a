"""Knocks at whatever processes listen on: with no token, with a wrong one, with the right one."""

from __future__ import annotations

import contextlib
import http.client
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

REFUSED = (401, 403)
PUBLIC = {  # read-only, and needed to log in or to see whether it lives
    *(("GET", "/"), ("GET", "/favicon.ico"), ("GET", "/api/authentication_mode"), ("GET", "/api/healthz")),
    *(("GET", "/api/gcs_healthz"), ("GET", "/api/local_raylet_healthz")),
}
CLOSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)
WAIT_S = 10.0
TELLING = re.compile(r"# (HELP|TYPE) |[a-zA-Z_:][\w:]*(\{.*\})? \S+$")  # a line of metrics


@dataclass(frozen=True)
class Door:
    """A port that a process listens on."""

    host: str
    port: int
    process: str

    @property
    def loopback(self) -> bool:
        return self.host.startswith("127.") or self.host in ("::1", "::ffff:127.0.0.1")


def doors(pids: Iterable[int]) -> list[Door]:
    """The ports that processes listen on, each once."""
    found = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            name = " ".join(process.cmdline())[:200]
            for link in process.net_connections(kind="inet"):
                if link.status == psutil.CONN_LISTEN:
                    found.add(Door(link.laddr.ip, link.laddr.port, name))
    by_port = {(d.host, d.port): d for d in sorted(found, key=lambda d: d.process)}
    return sorted(by_port.values(), key=lambda d: d.port)


def status(door: Door, method: str, path: str, token: str | None = None) -> int | None:
    """What an HTTP request is answered with; None where the port does not speak HTTP."""
    link = http.client.HTTPConnection("127.0.0.1", door.port, timeout=WAIT_S)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if method in ("POST", "PUT", "PATCH"):
        headers["Content-Type"] = "application/json"
    try:
        link.request(method, re.sub(r"\{[^}]*\}", "x", path), headers=headers)
        return link.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        link.close()


def is_metrics(door: Door) -> bool:
    """Whether all a port does is to tell metrics: whatever it is asked for, it answers with them."""
    link = http.client.HTTPConnection("127.0.0.1", door.port, timeout=WAIT_S)
    try:
        link.request("GET", "/whatever")
        text = link.getresponse().read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()
    lines = [line for line in text.splitlines() if line]
    return bool(lines) and all(TELLING.match(line) for line in lines)


def answered(door: Door, methods: Iterable[str], token: str | None = None) -> dict[str, str]:
    """The gRPC methods that take an empty request, with what they say; none where the port speaks no gRPC."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    found: dict[str, str] = {}
    with grpc.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        for method in methods:
            code = _code(channel, method, metadata)
            if code is grpc.StatusCode.UNAVAILABLE:
                return {}
            if code not in CLOSED:
                found[method] = "OK" if code is None else code.name
    return found


def refused(door: Door, methods: Iterable[str], token: str | None = None) -> int:
    """How many methods are refused for want of the token."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        return sum(_code(channel, m, metadata) is grpc.StatusCode.UNAUTHENTICATED for m in methods)


def _code(channel: grpc.Channel, method: str, metadata: Iterable[tuple[str, str]]) -> grpc.StatusCode | None:
    call = channel.unary_unary(method, lambda data: data, lambda data: data)
    try:
        call(b"", timeout=WAIT_S, metadata=tuple(metadata))
    except grpc.RpcError as fault:
        return fault.code()
    return None


def open_routes(
    door: Door, routes: Iterable[Iterable[str]], tokens: Mapping[str, str | None]
) -> dict[tuple[str, str], list[object]]:
    """The routes that are not refused, with what they answer to each of the tokens."""
    found = {}
    for method, path in routes:
        said = [status(door, method, path, token) for token in tokens.values()]
        if any(code not in REFUSED for code in said):
            found[method, path] = said
    return found


def mode(path: str | Path) -> str:
    """The permissions of a file or folder, as ``ls`` prints them."""
    return stat.filemode(Path(path).stat().st_mode)
