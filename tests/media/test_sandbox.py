"""Decoding in a child process: what hangs, crashes or eats memory ends as a typed reason."""

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raypipe.errors import ServiceError
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
        open(f"{request.root}/{request.path}.{os.getpid()}", "w").close()
        time.sleep(600)
    if name.startswith("slow"):
        for _ in range(30):
            time.sleep(0.1)
            sandbox.pulse.beat()
    if name.startswith("segv"):
        ctypes.string_at(0)
    if name.startswith("abort"):
        os.abort()
    if name.startswith("exit"):
        os._exit(3)
    if name.startswith("print"):
        print("a decoder that prints", flush=True)
    if name.startswith("eat"):
        hoard = bytearray(1 << 30)
    if name.startswith("raise"):
        raise ZeroDivisionError("once, " + repr(object()))
    if name.startswith("recurse"):
        return decode(request)
    if name.startswith("import"):
        import no_such_decoder
    if name.startswith("refused"):
        raise sandbox.MediumError("media_unreadable", "MemoryError: [Errno 12] Cannot allocate memory")
    if name.startswith("spin"):
        open(f"{request.root}/{request.path}.{os.getpid()}", "w").close()
        ctypes.PyDLL(None).sleep(600)  # in C code, and the interpreter's lock is kept
    return real(request)

sandbox.decode = decode
sandbox._serve()
"""


class Harmful(Sandbox):
    """A sandbox whose child has the decoder above; counts its children."""

    code = CHILD

    def __init__(self, limits: DecodeLimits) -> None:
        super().__init__(limits)
        self.started: list[int] = []

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [sys.executable, "-c", self.code],
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


def test_a_video_that_gives_no_sign_of_life_ends_early(root):
    """And one that has much to do does not."""
    for name in ("hang", "slow"):
        write_clip(root / f"{name}.mp4", 9)
    with Harmful(DecodeLimits(stall_s=2)) as sandbox:
        assert isinstance(sandbox.decode(request(root, "slow.mp4", MediumKind.VIDEO)), Medium)
        assert len(sandbox.started) == 1
        began = time.monotonic()
        found = sandbox.decode(request(root, "hang.mp4", MediumKind.VIDEO))
        took = time.monotonic() - began
        assert isinstance(found, Rejection)
        assert found.reason is Reason.DECODER_TIMEOUT
        assert "no sign of life for 2 s, 2 tries" in found.detail
        assert 4 <= took < 60


def test_a_hang_ends_after_two_tries(root):
    with Harmful(DecodeLimits(timeout_s=3)) as sandbox:
        began = time.monotonic()
        found = sandbox.decode(request(root, "hang.png"))
        took = time.monotonic() - began
        assert isinstance(found, Rejection)
        assert found.reason is Reason.DECODER_TIMEOUT
        assert "3 s, 2 tries" in found.detail
        assert 6 <= took < 60
        assert len(sandbox.started) == 2
        assert not any(_alive(pid) for pid in sandbox.started)


def test_too_much_memory_is_refused_by_the_system(root):
    with Harmful(DecodeLimits(memory_mib=1024)) as sandbox:
        found = sandbox.decode(request(root, "eat.png"))
        assert isinstance(found, Rejection)
        assert found.reason is Reason.DECODER_MEMORY
        assert len(sandbox.started) == 1  # a clean refusal is not tried again
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
    with Harmful(DecodeLimits(memory_mib=4096)) as sandbox:
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


LIES = """
import json, os, sys
from raypipe.media import sandbox

real = sandbox._answer

def answer(message):
    name = os.path.basename(message["path"])
    if name.startswith("loud"):
        return b"not json at all"
    if name.startswith("list"):
        return b'{"reason": "no such reason", "detail": ""'
    if name.startswith("half"):
        return b'{"medium": {"frames": ["AAAA"]}'
    if name.startswith("odd"):
        return real(message).replace(b'"frame_index": [', b'"frame_index": [7, ')
    if name.startswith("huge"):
        os.write(replies, b"\\xff\\xff\\xff\\xff")
    return real(message)

sandbox._answer = answer
replies = os.dup(1)
sandbox._serve()
"""


class Lying(Harmful):
    code = LIES


@pytest.mark.parametrize("name", ["loud", "list", "half", "odd", "huge"])
def test_what_is_no_answer_is_a_crash_of_the_child(root, name):
    with Lying(DecodeLimits(timeout_s=20)) as sandbox:
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        write_image(root / f"{name}.png", 9)
        found = sandbox.decode(request(root, f"{name}.png"))
        assert isinstance(found, Rejection)
        assert found.reason is Reason.DECODER_CRASHED
        assert "2 tries" in found.detail
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        assert len(sandbox.started) == 3


@pytest.mark.parametrize("name", ["raise", "recurse"])
def test_an_exception_of_a_decoder_is_a_reason_and_costs_no_child(root, name):
    with Harmful(DecodeLimits()) as sandbox:
        found = sandbox.decode(request(root, f"{name}.png"))
        assert isinstance(found, Rejection)
        assert found.reason is Reason.MEDIA_UNREADABLE
        assert found == sandbox.decode(request(root, f"{name}.png"))
        assert not re.search("0x[0-9a-f]", found.detail)
        assert {"raise": "ZeroDivisionError: once", "recurse": "RecursionError"}[name] in found.detail
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        assert len(sandbox.started) == 1


def test_a_decoder_that_cannot_be_imported_is_not_the_mediums_fault(root):
    with Harmful(DecodeLimits()) as sandbox, pytest.raises(ServiceError, match="cannot import"):
        sandbox.decode(request(root, "import.png"))


def test_a_child_that_does_not_start_is_not_the_mediums_fault(root):
    class Broken(Harmful):
        code = "raise SystemExit(5)"

    with Broken(DecodeLimits()) as sandbox:
        with pytest.raises(ServiceError, match=r"does not start.*ended \(5\)"):
            sandbox.decode(request(root, "good.png"))
        assert len(sandbox.started) == 2


def test_memory_that_a_decoder_misses_is_not_a_damaged_file(root):
    with Harmful(DecodeLimits()) as sandbox:
        found = sandbox.decode(request(root, "refused.png"))
    assert isinstance(found, Rejection)
    assert found.reason is Reason.DECODER_MEMORY


def test_memory_is_tried_again_only_in_a_child_that_served_others(root):
    """What earlier media left behind must not decide over a medium."""
    with Harmful(DecodeLimits(memory_mib=1024)) as sandbox:
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        found = sandbox.decode(request(root, "eat.png"))
        assert isinstance(found, Rejection)
        assert found.reason is Reason.DECODER_MEMORY
        assert len(sandbox.started) == 2


def test_the_start_of_a_child_does_not_count_against_a_medium(root):
    class Slow(Harmful):
        code = "import time; time.sleep(2.5)\n" + CHILD

    with Slow(DecodeLimits(timeout_s=2)) as sandbox:
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        assert len(sandbox.started) == 1


def test_an_interrupted_question_is_never_answered_to_another(root, monkeypatch):
    with Harmful(DecodeLimits()) as sandbox:
        expected = sandbox.decode(request(root, "good.png"))
        real = sandbox._read

        def interrupted(*args):
            monkeypatch.setattr(sandbox, "_read", real)
            raise KeyboardInterrupt

        monkeypatch.setattr(sandbox, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sandbox.decode(request(root, "clip.mp4", MediumKind.VIDEO))
        assert sandbox.decode(request(root, "good.png")) == expected
        assert len(sandbox.started) == 2


def test_a_child_is_replaced_after_many_media_or_when_it_has_grown(root, monkeypatch):
    from raypipe.media import sandbox as module

    with Harmful(DecodeLimits()) as sandbox:
        monkeypatch.setattr(module, "MOST_MEDIA", 2)
        for _ in range(4):
            assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        assert len(sandbox.started) == 2
        monkeypatch.setattr(module, "MOST_MEDIA", 100)
        for _ in range(2):
            sandbox.decode(request(root, "good.png"))
        assert len(sandbox.started) == 3
        monkeypatch.setattr(module, "MOST_RSS_MIB", 1)
        for _ in range(2):
            sandbox.decode(request(root, "good.png"))
        assert len(sandbox.started) == 4


def test_no_secret_reaches_the_child(root, monkeypatch):
    secrets = (
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "DB_PASSWORD",
        "my_secret",
        "X_KEY_FILE",
    )
    for name in secrets:
        monkeypatch.setenv(name, "canary-7261")
    monkeypatch.setenv("HARMLESS", "7262")
    with Sandbox(DecodeLimits()) as sandbox:
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        environment = Path(f"/proc/{sandbox._child.pid}/environ").read_bytes()
    assert b"canary-7261" not in environment
    assert b"HARMLESS=7262" in environment


def test_the_limits_of_the_child(root):
    with Sandbox(DecodeLimits(memory_mib=1024)) as sandbox:
        assert isinstance(sandbox.decode(request(root, "good.png")), Medium)
        limits = Path(f"/proc/{sandbox._child.pid}/limits").read_text().splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits}
    assert soft["Max core file size"] == "0"
    assert soft["Max open files"] == "256"
    assert soft["Max address space"] == str(1024 << 20)
