"""A sandbox beyond one caller: orphans, one child for a whole process, forks and threads."""

import contextlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raypipe.media.sandbox import GRACE_S, shared_sandbox
from raypipe.records import Medium
from raypipe.settings import DecodeLimits
from tests.media.test_sandbox import Harmful, _alive, request, root  # noqa: F401 - root is a fixture
from tests.support.clips import number_of, write_image

ORPHAN = """
import sys, threading, time
from tests.media.test_sandbox import Harmful, request
from pathlib import Path
from raypipe.media import sandbox as module
from raypipe.settings import DecodeLimits

sandbox = Harmful(DecodeLimits(timeout_s=1))
sandbox._ready()
print(sandbox.started[0], flush=True)
print(sandbox.decode(request(Path(sys.argv[1]), sys.argv[2])), flush=True)
"""


@pytest.mark.parametrize("name", ["spin.png", "hang.png"])
def test_a_hanging_child_does_not_outlive_its_killed_parent(root, name):  # noqa: F811
    """SIGKILL to the parent while the child is lost in C code (or asleep): the child's own alarm ends it."""
    path = os.pathsep.join(p for p in sys.path if p)
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(root), name],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path(__file__).parents[2],
    )
    child = int(parent.stdout.readline())
    assert _alive(child)
    deadline = time.monotonic() + 30
    while not (root / f"{name}.{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)  # until the decoder has been reached
    assert (root / f"{name}.{child}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _alive(child)
    deadline = time.monotonic() + 1 + GRACE_S + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def test_an_idle_child_ends_with_its_parent(root):  # noqa: F811
    code = "from raypipe.media.sandbox import *\ns = Sandbox(DecodeLimits())\ns._ready()\n"
    code += "print(s._child.pid, flush=True)\nimport os\nos.kill(os.getpid(), 9)"
    path = os.pathsep.join(p for p in sys.path if p)
    parent = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert parent.returncode == -9
    child, deadline = int(parent.stdout), time.monotonic() + 20
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def test_one_child_serves_a_whole_process(root):  # noqa: F811
    one, two = shared_sandbox(DecodeLimits()), shared_sandbox(DecodeLimits())
    assert one is two
    assert shared_sandbox(DecodeLimits(timeout_s=7)) is not one
    assert isinstance(one.decode(request(root, "good.png")), Medium)
    child = one._child.pid
    with contextlib.chdir(root):  # a relative root is one of this process, not of where the child began
        assert isinstance(two.decode(request(Path("."), "good.png")), Medium)
    assert isinstance(two.decode(request(root, "good.png")), Medium)
    assert two._child.pid == child
    forked = os.fork()
    if not forked:
        code = 1
        try:
            mine = shared_sandbox(DecodeLimits())
            right = isinstance(mine.decode(request(root, "good.png")), Medium) and mine._child.pid != child
            one.decode(request(root, "good.png"))  # even the old object starts a child of its own
            right = right and one._child.pid != child
            mine.close()
            one.close()
            code = 0 if right else 2
        finally:
            os._exit(code)
    assert os.waitpid(forked, 0)[1] == 0
    assert isinstance(one.decode(request(root, "good.png")), Medium)
    assert one._child.pid == child
    one.close()


def test_a_shared_child_ends_with_its_process(root):  # noqa: F811
    code = "from raypipe.media.sandbox import *\ns = shared_sandbox(DecodeLimits())\n"
    code += "s._ready()\nprint(s._child.pid)"
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    assert not _alive(int(done.stdout))


def test_threads_share_a_child(root):  # noqa: F811
    paths = [f"p{n}.png" for n in range(12)]
    for number, path in enumerate(paths):
        write_image(root / path, number)
    with Harmful(DecodeLimits()) as sandbox, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: sandbox.decode(request(root, p)), paths))
        assert [number_of(m.frames[0]) for m in found] == list(range(12))
        assert len(sandbox.started) == 1
