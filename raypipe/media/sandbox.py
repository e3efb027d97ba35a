"""Decoding in a child process that can be killed.

A decoder that hangs, crashes or eats memory takes its child with it, not the job. The child stays
for many media (its start costs a quarter of a second) and is replaced when it dies. A medium that
kills it on every try becomes a Rejection.

The two sides speak over pipes: a header of 4 bytes (length) and a JSON object with base64 frames,
so that nothing from a hostile file is ever unpickled.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import select
import struct
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any, BinaryIO

from raypipe.media.decode import DecodeRequest, MediumError, decode
from raypipe.records import Medium, MediumKind, Reason, Rejection
from raypipe.settings import DecodeLimits, Rendition, Sampling

_HEADER = struct.Struct(">I")


class ChildDied(Exception):
    """The child ended, or was ended, while it had work."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Sandbox:
    """Decodes media in a child process under limits; use as a context manager."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.limits = limits
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def decode(self, request: DecodeRequest) -> Medium | Rejection:
        """One medium, or the reason why not; never raises for what is wrong with the file."""
        fault: ChildDied | None = None
        for _ in range(self.limits.tries):
            try:
                reply = self._ask(request)
            except ChildDied as died:
                fault = died
                self.close()
                continue
            if "medium" in reply:
                return _unpack(reply["medium"])
            return self._rejection(request, Reason(reply["reason"]), reply["detail"])
        if fault is None:
            raise RuntimeError("a sandbox needs at least one try")
        return self._rejection(request, fault.reason, f"{fault.detail}, {self.limits.tries} tries")

    def close(self) -> None:
        """Ends the child, whatever it is doing."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _rejection(self, request: DecodeRequest, reason: Reason, detail: str) -> Rejection:
        return Rejection(request.key, "medium", reason, detail, request.path)

    def _ask(self, request: DecodeRequest) -> dict[str, Any]:
        child = self._child or self._start()
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the decoding child has no pipes")
        limits = {"memory_mib": self.limits.memory_mib}
        message = json.dumps({**asdict(request), **_settings_of(request), **limits}).encode()
        deadline = time.monotonic() + self.limits.timeout_s
        try:
            child.stdin.write(_HEADER.pack(len(message)) + message)
            child.stdin.flush()
            size = _HEADER.unpack(self._read(child.stdout, _HEADER.size, deadline))[0]
            return json.loads(self._read(child.stdout, size, deadline))
        except (BrokenPipeError, ConnectionResetError):
            raise ChildDied(Reason.DECODER_CRASHED, self._end_of(child)) from None

    def _start(self) -> subprocess.Popen[bytes]:
        # -I would hide an editable install under Ray's working_dir; the path is handed over instead.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "raypipe.media.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        return self._child

    def _read(self, pipe: BinaryIO | Any, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            left = deadline - time.monotonic()
            ready = select.select([pipe], [], [], max(0.0, left))[0]
            if not ready:
                raise ChildDied(Reason.DECODER_TIMEOUT, f"no answer within {self.limits.timeout_s:g} s")
            piece = os.read(pipe.fileno(), min(1 << 20, size - len(data)))
            if not piece:
                raise ChildDied(Reason.DECODER_CRASHED, self._end_of(self._child))
            data += piece
        return data

    @staticmethod
    def _end_of(child: subprocess.Popen[bytes] | None) -> str:
        code = child.wait(timeout=10) if child else None
        return f"the decoder ended by signal {-code}" if code and code < 0 else f"the decoder ended ({code})"


def _settings_of(request: DecodeRequest) -> dict[str, Any]:
    return {"sampling": request.sampling.model_dump(), "rendition": request.rendition.model_dump()}


def _unpack(row: dict[str, Any]) -> Medium:
    return Medium(
        **{
            **row,
            "kind": MediumKind(row["kind"]),
            "frames": tuple(base64.b64decode(f) for f in row["frames"]),
            **{k: tuple(row[k]) for k in ("pts_s", "frame_index", "evidence")},
        }
    )


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    request = DecodeRequest(
        **{
            **message,
            "kind": MediumKind(message["kind"]),
            "sampling": Sampling(**message["sampling"]),
            "rendition": Rendition(**message["rendition"]),
        }
    )
    try:
        medium = decode(request)
    except MediumError as fault:
        return {"reason": fault.reason, "detail": fault.detail}
    except MemoryError:
        return {"reason": Reason.DECODER_CRASHED, "detail": "out of the memory it is allowed"}
    return {"medium": {**asdict(medium), "frames": [base64.b64encode(f).decode() for f in medium.frames]}}


def _serve() -> None:
    """The child's side: one request after another until the pipe closes."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a decoder that prints must not write into the replies
    while header := requests.read(_HEADER.size):
        message = json.loads(requests.read(_HEADER.unpack(header)[0]))
        limit = message.pop("memory_mib") << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        reply = json.dumps(_answer(message)).encode()
        replies.write(_HEADER.pack(len(reply)) + reply)
        replies.flush()


if __name__ == "__main__":
    _serve()
