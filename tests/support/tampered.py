"""Run folders with faults in them that every hash vouches for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raypipe.store.verify import verify


def damage(run: Path) -> list[str]:
    return verify(str(run)).damage


def rewritten(
    run: Path, files: dict[str, bytes], change: Callable[[Any], Any] = lambda manifest: None
) -> None:
    """Files written wrong, by a raypipe that then vouched for them: every hash is right."""
    manifest = json.loads((run / "manifest.json").read_text())
    for entry in manifest["files"]:
        data = files.get(entry["path"])
        if data is not None:
            (run / entry["path"]).write_bytes(data)
            entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    change(manifest)
    (run / "manifest.json").write_text(json.dumps(manifest))
    record = json.loads((run / "commit.json").read_text())
    record["manifest_sha256"] = hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    (run / "commit.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
