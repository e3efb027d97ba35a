"""Decoding in a child process: what hangs, crashes or eats memory ends as a typed reason."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raypipe.media.decode import DecodeRequest, decode
from raypipe.media.sandbox import Sandbox
from raypipe.records import Medium, MediumKind, Reason, Rejection
from raypipe.settings import DecodeLimits, Rendition, Sampling
from tests.support.clips import write_clip, write_image

LOSSLESS = Rendition(codec="lossless")
# The child's real main loop, with a decoder that does harm when it is asked for a file named so.
CHILD = """
import ctypes, os, time
from raypipe.media import sandbox

real = sandbox.decode

def decode(request):
    name = os.path.basename(request.path)
    if name.startswith("hang"):
        time.sleep(600)
    if name.startswith("segv"):
        ctypes.string_at(0)
    if name.startswith("abort"):
        os.abort()
    if name.startswith("exit"):
        os._exit(3)
    if name.startswith("print"):
        print("a decoder that prints", flush=True)
    if name.startswith("eat"):
        hoard = bytearray(3 << 30)
    return real(request)

sandbox.decode = decode
sandbox._serve()
"""


class Harmful(Sandbox):
    """A sandbox whose child has the decoder above; counts its children."""

    def __init__(self, limits: DecodeLimits) -> None:
        super().__init__(limits)
        self.started: list[int] = []

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        self.started.append(self._child.pid)
        return self._child


def request(root: Path, path: str, kind: MediumKind = MediumKind.IMAGE, **more) -> DecodeRequest:
    return DecodeRequest(path, kind, str(root), path, Sampling(), LOSSLESS, **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("media")
    for name in ("good", "hang", "segv", "abort", "exit", "print", "eat"):
        write_image(root / f"{name}.png", 9)
    write_clip(root / "clip.mp4", 9)
    return root


def test_what_comes_out_is_what_the_decoder_made(root):
    asked = [request(root, "clip.mp4", MediumKind.VIDEO), request(root, "good.png")]
    with Sandbox(DecodeLimits()) as sandbox:
        assert [sandbox.decode(r) for r in asked] == [decode(r) for r in asked]


def test_a_reason_comes_out_as_a_rejection(root):
    with Sandbox(DecodeLimits()) as sandbox:
        for path, reason in (("no.png", Reason.MEDIA_MISSING), ("../x", Reason.MEDIA_OUTSIDE_ROOT)):
            found = sandbox.decode(request(root, path))
            assert isinstance(found, Rejection)
            assert (found.id, found.what, found.reason, found.path) == (path, "medium", reason, path)
        found = sandbox.decode(request(root, "\ud800.png"))
        assert isinstance(found, Rejection)
        assert found.reason is Reason.MEDIA_UNREADABLE


@pytest.mark.parametrize(
    ("name", "said"), [("segv", "signal 11"), ("abort", "signal 6"), ("exit", r"ended (3)")]
)
def test_a_crash_ends_after_two_tries(root, name, said):
    with Harmful(DecodeLimits()) as sandbox:
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        found = sandbox.decode(request(root, f"{name}.png"))
        assert isinstance(found, Rejection)
        assert found.reason is Reason.DECODER_CRASHED
        assert said in found.detail
        assert "2 tries" in found.detail
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        assert len(sandbox.started) == 3  # the first, one more try, one for the next medium
    assert not any(_alive(pid) for pid in sandbox.started)


def test_a_hang_ends_after_two_tries(root):
    with Harmful(DecodeLimits(timeout_s=3)) as sandbox:
        began = time.monotonic()
        found = sandbox.decode(request(root, "hang.png"))
        took = time.monotonic() - began
        assert isinstance(found, Rejection)
        assert found.reason is Reason.DECODER_TIMEOUT
        assert "3 s, 2 tries" in found.detail
        assert 6 <= took < 15
        assert len(sandbox.started) == 2
        assert not any(_alive(pid) for pid in sandbox.started)


def test_too_much_memory_is_refused_by_the_system(root):
    with Harmful(DecodeLimits(memory_mib=2048)) as sandbox:
        found = sandbox.decode(request(root, "eat.png"))
        assert isinstance(found, Rejection)
        assert found.reason is Reason.DECODER_MEMORY
        assert len(sandbox.started) == 1  # a clean refusal is not tried again
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
    with Harmful(DecodeLimits(memory_mib=8192)) as sandbox:
        assert isinstance(sandbox.decode(request(root, "eat.png")), Medium)


def test_a_decoder_that_prints_does_not_disturb_the_replies(root):
    with Harmful(DecodeLimits()) as sandbox:
        assert isinstance(sandbox.decode(request(root, "print.png")), Medium)


def test_a_child_killed_between_two_media_is_replaced(root):
    with Harmful(DecodeLimits()) as sandbox:
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        os.kill(sandbox.started[0], 9)
        os.waitpid(sandbox.started[0], os.WNOHANG)
        assert isinstance(sandbox.decode(request(root, "clip.mp4", MediumKind.VIDEO)), Medium)
        assert len(sandbox.started) == 2


def test_the_limits_of_a_request_arrive(root):
    with Sandbox(DecodeLimits()) as sandbox:
        found = sandbox.decode(dataclasses.replace(request(root, "good.png"), max_pixels=10))
    assert isinstance(found, Rejection)
    assert found.reason is Reason.IMAGE_TOO_LARGE


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
