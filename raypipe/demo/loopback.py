"""A small HTTP server on 127.0.0.1, quiet, that answers as OpenAI's API does and can fail as real ones do."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """Takes a free port when ``port`` is 0; it does not wait for connections that stand when it ends."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[LoopbackHandler], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: a client that gave up or was killed is no fault of the server."""


class LoopbackHandler(BaseHTTPRequestHandler):
    """One connection; it stays open from request to request, as those of real endpoints do."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 60

    def send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A whole reply; of type JSON unless the headers say otherwise."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def reset(self) -> None:
        """Ends the connection by RST, without a reply: a linger of 0 seconds does that."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.close()

    def hang(self, seconds: float) -> None:
        """Says nothing for so long, or until the client has gone."""
        self.close_connection = True
        select.select([self.connection], [], [], seconds)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: a line a request helps nobody."""
