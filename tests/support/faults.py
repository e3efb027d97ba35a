"""A loopback proxy before an S3 server that answers wrongly, breaks off, or loses the reply."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Plan = Callable[[str, str], str | None]

ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "ServiceUnavailable"),
    "slow_down": (503, "SlowDown"),
    "conflict": (409, "ConditionalRequestConflict"),
    "denied": (403, "AccessDenied"),
}
KINDS = ("500", "503", "slow_down", "reset", "stall", "lost", "truncated")  # what may pass by itself


def after(number: int, kind: str, times: int = 1, method: str = "") -> Plan:
    """Lets ``number`` requests through, does ``kind`` to the next ``times``, then behaves."""
    seen = 0

    def plan(asked: str, _: str) -> str | None:
        nonlocal seen
        if method and asked != method:
            return None
        seen += 1
        return kind if number < seen <= number + times else None

    return plan


class FaultProxy:
    """Forwards to a server; ``plan`` says for each request (method, path) what to do to it.

    ``500``, ``503``, ``slow_down``, ``conflict``, ``denied``: that answer, not forwarded; ``reset``:
    the connection is reset, not forwarded; ``stall``: no answer for ``stall_s``, not forwarded;
    ``lost``: forwarded, and the connection reset in place of the reply; ``truncated``: forwarded, and
    half of the reply's body sent. ``fired`` lists what was done: (kind, method, path); ``answered`` what was
    answered: (method, path, bytes of the body).
    """

    def __init__(self, target: str, stall_s: float = 1.0) -> None:
        self.target, self.stall_s = urlsplit(target), stall_s
        self.plan: Plan | None = None
        self.fired: list[tuple[str, str, str]] = []
        self.answered: list[tuple[str, str, int]] = []
        self.lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that gave up is what is wanted
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def kind_of(self, method: str, path: str) -> str | None:
        with self.lock:
            kind = self.plan(method, path) if self.plan else None
            if kind:
                self.fired.append((kind, method, path))
            return kind


@contextlib.contextmanager
def fault_proxy(target: str, stall_s: float = 1.0) -> Iterator[FaultProxy]:
    proxy = FaultProxy(target, stall_s)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body of an answer are two writes: 40 ms otherwise
    owner: FaultProxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.owner.kind_of(self.command, self.path)
        if kind in ERRORS:
            status, code = ERRORS[kind]
            text = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml")], text, len(text))
        elif kind == "reset":
            self._reset()
        elif kind == "stall":
            time.sleep(self.owner.stall_s)
            self._reset()
        else:
            status, headers, answer = self._forward(body)
            if kind == "lost":
                self._reset()
            elif kind == "truncated" and answer and self.command != "HEAD":
                self._answer(status, headers, answer[: len(answer) // 2], len(answer))
                self._reset()
            else:
                self._answer(status, headers, answer, len(answer))

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        target = self.owner.target
        link = http.client.HTTPConnection(target.hostname or "", target.port, timeout=30)
        try:
            link.request(self.command, self.path, body, dict(self.headers.items()))
            reply = link.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            link.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
        with self.owner.lock:
            self.owner.answered.append((self.command, self.path, len(body)))
        self.send_response_only(status)
        held = [value for name, value in headers if name.lower() == "content-length"]
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        # The answer to HEAD has the length of an object that does not come with it.
        self.send_header("Content-Length", held[0] if self.command == "HEAD" and held else str(length))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.close()

    def log_message(self, *_: object) -> None:
        pass
