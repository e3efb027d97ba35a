"""Decoding in a child process that can be killed.

A decoder that hangs, crashes or eats memory takes its child with it, not the job. The child stays
for many media (its start costs a third of a second) and is replaced when it dies or has grown. A medium
that kills it on every try becomes a Rejection.

The two sides speak over pipes: a header of 4 bytes (length) and a JSON object with base64 frames,
so that nothing from a hostile file is ever unpickled. What is not such an answer counts as a crash. A header
of zero is a sign of life (pulse.py): a child that gives none for a while hangs.
The child sees local files only: media of a remote root are fetched here, and no secret of the
environment is handed on.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import itertools
import json
import os
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

from raypipe.errors import ServiceError
from raypipe.media import pulse
from raypipe.media.decode import DecodeRequest, decode
from raypipe.media.fault import MediumError
from raypipe.media.fetch import near_media
from raypipe.records import Medium, MediumKind, Reason, Rejection
from raypipe.settings import DecodeLimits, Rendition, Sampling

START_S = 60.0  # a child that does not come up within this is the machine's fault, not the medium's
GRACE_S = 5.0  # after the time limit, until a child ends by itself because nobody ended it
MOST_MEDIA = 2000  # of one child, for decoders leak
MOST_RSS_MIB = 768  # of a child between two media
MOST_REPLY = 1 << 31  # bytes

_HEADER = struct.Struct(">I")
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")  # of an object: the same fault is to be told in the same words
_NO_MEMORY = re.compile(r"MemoryError|Cannot allocate memory|out of memory", re.IGNORECASE)
_SECRET = re.compile(r"^AWS_|TOKEN|SECRET|PASSW|CREDENTIAL|_KEY(_|$)|^KEY$|_PAT$", re.IGNORECASE)


class ChildDied(Exception):
    """The child ended, or was ended, while it had work."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Sandbox:
    """Decodes media in a child process under limits; use as a context manager.

    Threads may share one: their media are decoded one after another.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self.limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started the child
        self._served = 0  # media of this child
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def decode(self, request: DecodeRequest) -> Medium | Rejection:
        """One medium, or the reason why not; never raises for what is wrong with the file.

        Raises:
            ServiceError: a remote storage fails, or no child can be started.
        """
        return next(self.decode_all([request]))

    def decode_all(self, requests: Iterable[DecodeRequest]) -> Iterator[Medium | Rejection]:
        """Decodes media in order; those of a remote root are fetched ahead while others are decoded.

        Raises:
            ServiceError: as ``decode``.
        """
        with contextlib.closing(near_media(requests)) as media:
            for request, near in media:
                if isinstance(near, MediumError):
                    yield _rejection(request, near.reason, near.detail)
                else:
                    yield self._decode(request, near)

    def close(self) -> None:
        """Ends the child, whatever it is doing."""
        child, self._child = self._child, None
        if child is None:
            return
        if self._owner == os.getpid():  # after a fork the child is another process's
            child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _decode(self, request: DecodeRequest, near: DecodeRequest) -> Medium | Rejection:
        """Decodes ``near``, the local place of ``request``."""
        fault = ChildDied(Reason.DECODER_CRASHED, "not tried")
        with self._lock:
            for _ in range(self.limits.tries):
                try:
                    reply = self._ask(near)
                    if reply.get("reason") == Reason.DECODER_MEMORY and self._served > 1:
                        self.close()  # what earlier media left behind may have been the reason
                        reply = self._ask(near)
                    return self._read_reply(request, near, reply)
                except ChildDied as died:
                    fault = died
                    self.close()
        return _rejection(request, fault.reason, f"{fault.detail}, {self.limits.tries} tries")

    def _read_reply(
        self, request: DecodeRequest, near: DecodeRequest, reply: dict[str, Any]
    ) -> Medium | Rejection:
        try:
            if "medium" in reply:
                medium = _unpack(request, reply["medium"])
                if self._worn():
                    self.close()
                return medium
            if "service" in reply:
                raise ServiceError(*map(str, reply["service"]))
            reason, detail = Reason(reply["reason"]), _ADDRESS.sub("0x", str(reply["detail"]))
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            said = f"{type(fault).__name__}: {str(fault)[:80]}"
            raise ChildDied(Reason.DECODER_CRASHED, f"the decoder gave no answer ({said})") from None
        if reason is Reason.DECODER_MEMORY or self._worn():
            self.close()
        if near is not request:  # the temporary name is another one each time
            detail = detail.replace(f"{near.root}/{near.path}", request.path).replace(near.root, "")
        return _rejection(request, reason, detail)

    def _worn(self) -> bool:
        if self._served >= MOST_MEDIA or self._child is None:
            return True
        try:
            with open(f"/proc/{self._child.pid}/statm", encoding="utf-8") as status:
                resident = int(status.read().split()[1]) * resource.getpagesize()
        except (OSError, ValueError, IndexError):
            return False  # no such file system, or the child has ended: the next request will show
        return resident > MOST_RSS_MIB << 20

    def _ask(self, request: DecodeRequest) -> dict[str, Any]:
        child = self._ready()
        number = next(self._numbers)
        more = {"memory_mib": self.limits.memory_mib, "timeout_s": self.limits.timeout_s, "number": number}
        message = json.dumps({**asdict(request), **_settings_of(request), **more}).encode()
        self._served += 1
        try:
            # A picture is made in one step, and decord decodes a whole chain in one: they give no signs.
            speaks = request.kind is MediumKind.VIDEO and request.decoder == "pyav"
            reply = self._exchange(
                child, message, self.limits.timeout_s, self.limits.stall_s if speaks else None
            )
        except ChildDied:
            raise
        except BaseException:  # interrupted: the answer to come is not that to the next question
            self.close()
            raise
        if reply.get("number") != number:
            raise ChildDied(Reason.DECODER_CRASHED, "the decoder answered another question")
        return reply

    def _exchange(
        self, child: subprocess.Popen[bytes], message: bytes, limit_s: float, stall_s: float | None = None
    ) -> dict[str, Any]:
        end = time.monotonic() + limit_s
        try:
            if message:
                child.stdin.write(_HEADER.pack(len(message)) + message)  # type: ignore[union-attr]
                child.stdin.flush()  # type: ignore[union-attr]
            size = 0
            while not size:
                size = _HEADER.unpack(self._read(child.stdout, _HEADER.size, end, stall_s))[0]
            if size > MOST_REPLY:
                raise ChildDied(Reason.DECODER_CRASHED, f"the decoder announced {size} bytes")
            reply = json.loads(self._read(child.stdout, size, end))
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(child) from None
        except (ValueError, RecursionError):
            raise ChildDied(Reason.DECODER_CRASHED, "the decoder's answer is not JSON") from None
        if not isinstance(reply, dict):
            raise ChildDied(Reason.DECODER_CRASHED, "the decoder's answer is no JSON object")
        return reply

    def _ready(self) -> subprocess.Popen[bytes]:
        """The child, started if there is none; its start does not count against a medium's time."""
        if self._child is not None and self._owner == os.getpid() and self._child.poll() is None:
            return self._child
        self.close()
        fault: Exception | None = None
        for _ in range(2):
            try:
                child = self._start()
                self._owner, self._served = os.getpid(), 0
                self._exchange(child, b"", START_S)
                return child
            except (ChildDied, OSError) as died:
                fault = died
                self.close()
        raise ServiceError(
            f"the decoding process does not start: {fault}",
            f"run '{sys.executable} -m raypipe.media.sandbox' to see why; it needs memory and processes",
        )

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "raypipe.media.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        return self._child

    def _read(self, pipe: BinaryIO | Any, size: int, end: float, stall_s: float | None = None) -> bytes:
        data = bytearray()
        waiter = select.poll()  # select() takes no file number above 1023
        waiter.register(pipe, select.POLLIN)
        while len(data) < size:
            left = end - time.monotonic()
            stalls = stall_s is not None and stall_s < left
            if not waiter.poll(max(0.0, stall_s if stalls and stall_s else left) * 1000):
                said = f"no sign of life for {stall_s:g} s" if stalls else self._too_long()
                raise ChildDied(Reason.DECODER_TIMEOUT, said)
            piece = os.read(pipe.fileno(), min(1 << 20, size - len(data)))
            if not piece:
                raise self._died(self._child)
            data += piece
        return bytes(data)

    def _too_long(self) -> str:
        return f"no answer within {self.limits.timeout_s:g} s"

    def _died(self, child: subprocess.Popen[bytes] | None) -> ChildDied:
        try:
            code = child.wait(timeout=10) if child else None
        except subprocess.TimeoutExpired:
            return ChildDied(Reason.DECODER_CRASHED, "the decoder closed its pipe")
        if code == -signal.SIGALRM:  # its own alarm; this process was held up for longer than the limit
            return ChildDied(Reason.DECODER_TIMEOUT, self._too_long())
        said = f"by signal {-code}" if code and code < 0 else f"({code})"
        return ChildDied(Reason.DECODER_CRASHED, f"the decoder ended {said}")


_shared: dict[DecodeLimits, Sandbox] = {}
_shared_lock = threading.Lock()


def shared_sandbox(limits: DecodeLimits) -> Sandbox:
    """The sandbox of this process for these limits: one child for many units, ended with the process."""
    with _shared_lock:
        return _shared.setdefault(limits, Sandbox(limits))


def _forget_shared() -> None:
    """In a forked process: the children of the other one are not ours to speak to."""
    global _shared_lock
    _shared.clear()
    _shared_lock = threading.Lock()


def _close_shared() -> None:
    for sandbox in list(_shared.values()):
        sandbox.close()


os.register_at_fork(after_in_child=_forget_shared)
atexit.register(_close_shared)


def _environment() -> dict[str, str]:
    """This process's environment without secrets, for a process that hostile files may take over."""
    kept = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    # -I would hide an editable install under Ray's working_dir; the path is handed over instead.
    return {**kept, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def _rejection(request: DecodeRequest, reason: Reason, detail: str) -> Rejection:
    return Rejection(request.key, "medium", reason, detail, request.path)


def _settings_of(request: DecodeRequest) -> dict[str, Any]:
    return {"sampling": request.sampling.model_dump(), "rendition": request.rendition.model_dump()}


def _unpack(request: DecodeRequest, row: dict[str, Any]) -> Medium:
    """A medium from the child's answer; names come from the request, and nothing is believed unseen."""
    medium = Medium(
        key=request.key,
        kind=request.kind,
        path=request.path,
        sha256=str(row["sha256"]),
        frames=tuple(base64.b64decode(f, validate=True) for f in row["frames"]),
        pts_s=tuple(float(t) for t in row["pts_s"]),
        frame_index=tuple(int(p) for p in row["frame_index"]),
        evidence=tuple(str(e) for e in row["evidence"]),
        width=int(row["width"]),
        height=int(row["height"]),
        phash=str(row["phash"]),
    )
    count = len(medium.frames)
    if not count or {len(medium.pts_s), len(medium.frame_index), len(medium.evidence)} != {count}:
        raise ValueError("a medium whose lists do not match")
    return medium


def _answer(message: dict[str, Any]) -> bytes:
    """What the child says to one request; nothing that a file makes a decoder raise ends the child."""
    try:
        request = DecodeRequest(
            **{
                **message,
                "kind": MediumKind(message["kind"]),
                "sampling": Sampling(**message["sampling"]),
                "rendition": Rendition(**message["rendition"]),
            }
        )
        medium = decode(request)
        frames = [base64.b64encode(f).decode() for f in medium.frames]
        return json.dumps({"medium": {**asdict(medium), "frames": frames}})[:-1].encode()
    except (MediumError, MemoryError) as fault:
        detail = fault.detail if isinstance(fault, MediumError) else "MemoryError"
        reply: dict[str, Any] = {"reason": getattr(fault, "reason", ""), "detail": detail}
        if _NO_MEMORY.search(detail):  # a decoder may have said so, and its reader taken it for damage
            reply = {"reason": Reason.DECODER_MEMORY, "detail": "it needs more memory than it is allowed"}
    except ServiceError as fault:
        reply = {"service": [fault.message, fault.remedy]}
    except ImportError as fault:
        said = f"the decoding process cannot import {fault.name or 'a decoder'}: {str(fault)[:200]}"
        reply = {"service": [said, "install raypipe with its dependencies, or allow more limits.memory_mib"]}
    except Exception as fault:
        said = f"{type(fault).__name__}: {' '.join(str(fault).split())[:160]}"
        reply = {"reason": Reason.MEDIA_UNREADABLE, "detail": said}
    return json.dumps(reply)[:-1].encode()


def _serve() -> None:
    """The child's side: one request after another until the pipe closes."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a decoder that prints must not write into the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    pulse.tell_by(lambda: _send(replies, b""))
    _send(replies, b'{"ready": true}')
    while header := requests.read(_HEADER.size):
        message = json.loads(requests.read(_HEADER.unpack(header)[0]))
        limit, number = message.pop("memory_mib") << 20, message.pop("number")
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        # The end of a child that hangs in a decoder's code when its parent was killed.
        signal.setitimer(signal.ITIMER_REAL, message.pop("timeout_s") + GRACE_S)
        answer = _answer(message)
        _send(replies, answer + b', "number": %d}' % number)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _send(replies: BinaryIO, data: bytes) -> None:
    replies.write(_HEADER.pack(len(data)) + data)
    replies.flush()


if __name__ == "__main__":
    _serve()
