"""Hashes of large files, remembered on this machine: weights are read once and not at every start.

A file counts as unchanged while device, inode, size and times of change are the same, the inode's own (ctime)
among them, which no program sets. A hash of a file that changed a moment ago is not remembered, for a second
change within one tick of the clock would not show.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from raypipe.errors import RaypipeError
from raypipe.records import fingerprint
from raypipe.store.node import node_folder

LARGE = 64 << 20  # bytes; smaller files are quicker read than looked up
SETTLED_NS = 2_000_000_000
LENGTH = 24  # hexadecimal digits


def digest_of(file: Path, large: int = LARGE) -> str:
    """The beginning of the BLAKE2b hash of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    before = _state(file)
    if before["size"] < large:
        return _read(file)
    note = None
    with contextlib.suppress(RaypipeError):  # a machine without room for notes reads
        note = node_folder("digests") / f"{fingerprint(os.path.realpath(file))}.json"
    known = _noted(note) if note else {}
    if known.get("state") == before:
        return str(known["digest"])
    settled = time.time_ns() - max(before["changed"], before["inode_changed"]) > SETTLED_NS
    digest = _read(file)
    if note and settled and _state(file) == before:
        _note(note, {"state": before, "digest": digest})
    return digest


def _state(file: Path) -> dict[str, int]:
    found = os.stat(file)
    return {
        "device": found.st_dev,
        "inode": found.st_ino,
        "size": found.st_size,
        "changed": found.st_mtime_ns,
        "inode_changed": found.st_ctime_ns,
    }


def _read(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "blake2b").hexdigest()[:LENGTH]


def _noted(note: Path) -> dict[str, Any]:
    try:
        body = json.loads(note.read_text(encoding="utf-8"))
        return body if len(body["digest"]) == LENGTH else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _note(note: Path, body: dict[str, Any]) -> None:
    temporary = note.with_name(f".{uuid.uuid4().hex}.tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(body), encoding="utf-8")
        os.replace(temporary, note)
