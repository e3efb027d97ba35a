"""A prepare run killed at every one of its storage operations, and started again."""

import os
import shutil
from pathlib import Path

import pytest

from raypipe.prepare import work
from raypipe.store.verify import verify
from tests.support.clips import data_root, talk, write_annotations, write_image
from tests.support.prepared import NoSandbox, contents, prepared

KILLED = 9
SETTINGS = {"error_budget": 1.0, "media_per_shard": 2}
OPERATIONS = ("fsync", "link", "replace", "unlink")  # what the store asks of the system, in order


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch):
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("kill") / "data"
    records = data_root(root)
    bad = [{"conversations": []}, {**records[4], "image": "pictures/no.png"}]
    write_annotations(root, [records[2], records[4], records[7], *bad])
    for file in root.rglob("*"):  # media are named by their time of change, and units by their media
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return root


def run_and_kill(root: Path, out: Path, at: int) -> int:
    """Prepares in a forked child that dies before its storage operation number ``at``; its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            seen = 0

            def counting(function):
                def call(*args, **kwargs):
                    nonlocal seen
                    seen += 1
                    if seen == at:
                        os._exit(KILLED)
                    return function(*args, **kwargs)

                return call

            for name in OPERATIONS:
                setattr(os, name, counting(getattr(os, name)))
            prepared(root, out, **SETTINGS)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_anywhere_it_ends_the_same(root, tmp_path):
    out, kills = tmp_path / "run", 0
    prepared(root, out, **SETTINGS)
    wanted = contents(out)
    for at in range(1, 500):
        shutil.rmtree(out)
        code = run_and_kill(root, out, at)
        if code == 0:
            break
        assert code == KILLED, f"at operation {at}"
        kills += 1
        if (out / "commit.json").exists():
            assert verify(str(out)).damage == [], f"committed but not whole at operation {at}"
        prepared(root, out, **SETTINGS)
        assert _differing(contents(out), wanted) == [], f"after a kill at operation {at}"
        assert verify(str(out)).damage == []
    else:
        pytest.fail("the run never came to its end")
    assert kills > 30  # the faults fired


def test_a_repair_killed_anywhere_is_never_half_committed(tmp_path):
    """A run that changes a finished one takes the commit back before it touches what that vouches for."""
    root, out, kills = tmp_path / "data", tmp_path / "run", 0
    records = [{"image": f"p{n}.png", "conversations": talk("<image>\nWhat?", "A bar.")} for n in range(2)]
    write_annotations(root, records)
    write_image(root / "p0.png")
    prepared(root, out, **SETTINGS)
    write_image(root / "p1.png")
    before = shutil.copytree(out, tmp_path / "before")
    for at in range(1, 500):
        shutil.rmtree(out)
        shutil.copytree(before, out)
        code = run_and_kill(root, out, at)
        if code == 0:
            break
        kills += code == KILLED
        if (out / "commit.json").exists():
            faults = verify(str(out)).damage
            assert [f for f in faults if "not named in the manifest" not in f] == [], f"at operation {at}"
        assert prepared(root, out, **SETTINGS)["ok"] == 2
        assert verify(str(out)).damage == []
    assert kills > 20


def _differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(n for n in {*one, *other} if one.get(n) != other.get(n))
