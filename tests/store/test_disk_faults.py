"""The local store when the system refuses: a ServiceError, never a torn file, nothing left behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.errors import ServiceError
from raypipe.store.files import Store

OLD, NEW = b"old" * 1000, b"new" * 100_000
CODES = (errno.ENOSPC, errno.EIO, errno.EMFILE)
WRITES = {
    "put_new": lambda s, _: s.put_new("deep/er/new", NEW),
    "replace": lambda s, _: s.replace("old", NEW),
    "replace_from": lambda s, source: s.replace_from("old", source),
}
COMMON = ("open", "write", "fsync", "close", "unlink")
CASES = [(verb, name) for verb in WRITES for name in COMMON]
CASES += [("put_new", "mkdir"), ("put_new", "link"), ("replace", "replace"), ("replace_from", "replace")]


class Injected:
    """Makes the n-th call of one system function fail, or write less than it was given."""

    def __init__(self, monkeypatch, name: str, number: int, code: int | None) -> None:
        self.seen, self.fired = 0, False
        real = getattr(os, name)

        def call(*args, **kwargs):
            self.seen += 1
            if self.seen != number:
                return real(*args, **kwargs)
            self.fired = True
            if code is None:
                return real(args[0], args[1][: len(args[1]) // 3 or 1])
            if name == "close":
                real(*args)  # the handle is gone all the same
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize(("verb", "name"), CASES)
def test_every_call_of_the_system_may_fail(tmp_path, monkeypatch, verb, name):
    source = tmp_path / "source"
    source.write_bytes(NEW)
    fired = 0
    for code in CODES:
        for number in range(1, 9):
            store = Store(str(tmp_path / f"{code}-{number}"))
            store.replace("old", OLD)
            with monkeypatch.context() as patch:
                injected = Injected(patch, name, number, code)
                said = ""
                try:
                    WRITES[verb](store, source)
                except ServiceError as fault:
                    said = fault.message
            failed = bool(said)
            assert not failed or os.strerror(code) in said
            assert failed <= injected.fired
            fired += injected.fired
            shown = {n: store.read(n) for n in store.list()}
            target, before = ("deep/er/new", None) if verb == "put_new" else ("old", OLD)
            whole = shown.get(target) in ((NEW, before) if failed else (NEW,))
            assert whole, (verb, name, number)
            assert set(shown) <= {"old", target}
            if name != "unlink":
                assert not list(Path(store.root).rglob(".*")), (verb, name, number)
    assert fired >= len(CODES)


def test_short_writes_are_continued(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    for number in range(1, 4):
        with monkeypatch.context() as patch:
            injected = Injected(patch, "write", number, None)
            for other in ("a", "b", "c"):
                store.replace(other, NEW)
        assert injected.fired
        assert {store.read(n) for n in store.list()} == {NEW}


@pytest.mark.parametrize("name", ["open", "pread", "stat", "scandir"])
def test_faults_of_reading_are_service_errors(tmp_path, monkeypatch, name):
    store = Store(str(tmp_path))
    store.replace("a", OLD)
    reads = {"open": store.range, "pread": store.range, "stat": lambda *_: store.exists("a")}
    act = reads.get(name, lambda *_: store.list())
    with monkeypatch.context() as patch:
        injected = Injected(patch, name, 1, errno.EIO)
        with pytest.raises(ServiceError, match="Input/output"):
            act("a", 0, 10)
    assert injected.fired


def test_a_name_below_a_file_is_not_there(tmp_path):
    store = Store(str(tmp_path))
    store.replace("a", OLD)
    store.replace("b/c", OLD)
    for name in ("a/b", "b"):
        assert not store.exists(name)
        for act in (store.read, store.size, store.sha256):
            with pytest.raises(FileNotFoundError):
                act(name)
    store.delete("a/b")
    assert store.list("a") == []


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path):
    """A writer is killed between its temporary file and the link; another one is still at work."""
    text = (
        "import os, sys, time; from raypipe.store.files import Store\n"
        "def stop(*_):\n print('here', flush=True); time.sleep(60)\n"
        "os.link = stop; Store(sys.argv[1]).put_new('media/' + sys.argv[2], b'1')\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", text, str(tmp_path), name], stdout=subprocess.PIPE)
        for name in ("dead", "alive")
    ]
    try:
        for writer in writers:
            assert writer.stdout
            assert writer.stdout.readline() == b"here\n"
        writers[0].kill()
        store = Store(str(tmp_path))
        store.replace("media/whole", b"1")
        (tmp_path / "media/.foreign.tmp").write_bytes(b"of whom?")
        assert len(list(tmp_path.rglob(".*.tmp"))) == 3
        while store.sweep_temporary() == 0:  # not gone before the kernel has ended it
            pass
        left = sorted(p.name for p in tmp_path.rglob(".*.tmp"))
        assert [name.split(".")[1] for name in left] == ["alive", "foreign"]
        assert store.read("media/whole") == b"1"
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            if writer.stdout:
                writer.stdout.close()
