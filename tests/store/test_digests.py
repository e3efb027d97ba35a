"""Remembered hashes: never those of another content."""

import hashlib
import os
from pathlib import Path

import pytest

from raypipe.store import digests
from raypipe.store.digests import digest_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAYPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**18))  # all has settled, unless a test says otherwise
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    files: list[Path] = []
    real = digests._read
    monkeypatch.setattr(digests, "_read", lambda file: files.append(file) or real(file))
    return files


def hash_of(data: bytes) -> str:
    return hashlib.blake2b(data).hexdigest()[:24]


def test_a_large_file_is_read_once(tmp_path, reads):
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 100)
    assert [digest_of(file, 10) for _ in range(3)] == [hash_of(b"w" * 100)] * 3
    assert len(reads) == 1
    assert [digest_of(file, 1000) for _ in range(2)] == [hash_of(b"w" * 100)] * 2
    assert len(reads) == 3


def test_a_change_of_the_same_size_and_time_shows(tmp_path, reads):
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 100)
    before = os.stat(file)
    assert digest_of(file, 10) == hash_of(b"a" * 100)
    with open(file, "r+b") as handle:
        handle.write(b"b")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(file).st_mtime_ns == before.st_mtime_ns
    assert digest_of(file, 10) == hash_of(b"b" + b"a" * 99)
    (tmp_path / "other").write_bytes(b"c" * 100)
    os.replace(tmp_path / "other", file)
    assert digest_of(file, 10) == hash_of(b"c" * 100)


def test_what_changed_a_moment_ago_is_not_remembered(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 10**18)
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 100)
    for _ in range(2):
        assert digest_of(file, 10) == hash_of(b"w" * 100)
    assert len(reads) == 2


def test_what_changes_while_it_is_read_is_not_remembered(tmp_path, monkeypatch, cache):
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 100)
    real = digests._read

    def read(path):
        digest = real(path)
        file.write_bytes(b"b" * 101)
        return digest

    monkeypatch.setattr(digests, "_read", read)
    assert digest_of(file, 10) == hash_of(b"a" * 100)
    assert not list((cache / "digests").glob("*.json"))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"digest": "x"}'])
def test_a_damaged_note_is_read_over(tmp_path, text, cache, reads):
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 100)
    digest_of(file, 10)
    (note,) = (cache / "digests").glob("*.json")
    note.write_text(text)
    assert digest_of(file, 10) == hash_of(b"w" * 100)
    assert len(reads) == 2


def test_no_place_for_notes_is_no_reason_to_fail(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("RAYPIPE_CACHE", str(tmp_path / "file"))
    (tmp_path / "weights").write_bytes(b"w" * 100)
    assert digest_of(tmp_path / "weights", 10) == hash_of(b"w" * 100)
