"""Checkpoints: every rank puts its files, then one record with all their hashes makes them count.

A checkpoint without its record does not exist; one whose files are not what the record says is
passed over for the one before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError
from raypipe.store.files import Store

FOLDER = "checkpoints"
log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training run, as one rank sees them.

    Args:
        rank, world: this rank and how many there are.
        keep: how many committed checkpoints stay.
        gather: collects one value from each rank on all ranks (a barrier, too).
        protect: of the committed steps, those that must stay however many there are.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world: int,
        keep: int,
        gather: Callable[[Any], list[Any]] | None = None,
        protect: Callable[[list[int]], set[int]] | None = None,
    ) -> None:
        self._store, self._rank, self._world, self._keep = store, rank, world, keep
        self._protect = protect or (lambda steps: set())
        self._gather = gather or (lambda value: [value])

    def commit(self, folder: Path, step: int) -> None:
        """Puts this rank's files; rank 0 writes the record when all ranks have put theirs."""
        name = f"{FOLDER}/step-{step:08d}"
        files = {}
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            relative = file.relative_to(folder).as_posix()
            self._store.replace_from(f"{name}/{relative}", file)
            files[relative] = {"sha256": _sha256(file), "bytes": file.stat().st_size}
        everything: dict[str, Any] = {}
        for part in self._gather(files):
            everything |= part
        if self._rank == 0:
            record = {"step": step, "world": self._world, "files": everything}
            self._store.replace(
                f"{name}.json", (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
            )
            self._forget()
        self._gather(None)

    @contextlib.contextmanager
    def newest(self) -> Iterator[Path | None]:
        """The newest checkpoint that is whole, as a local folder; None where there is none.

        Raises:
            RequestError: it was written by another number of workers.
        """
        chosen = self._gather(self._choose() if self._rank == 0 else None)[0]
        if chosen is None:
            yield None
            return
        if chosen["world"] != self._world:
            raise RequestError(
                f"the checkpoint at step {chosen['step']} is of {chosen['world']} workers, not {self._world}",
                f"set workers.num={chosen['world']}",
            )
        with tempfile.TemporaryDirectory(prefix="raypipe-resume-") as local:
            for name in chosen["files"]:
                target = Path(local) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._store.fetch(f"{FOLDER}/step-{chosen['step']:08d}/{name}", target)
            yield Path(local)

    def _choose(self) -> dict[str, Any] | None:
        for name in reversed(self._records()):
            try:
                record = json.loads(self._store.read(name))
                fault = self._fault(record)
            except (ValueError, TypeError, KeyError) as damage:  # the record itself is not what was written
                fault = f"its record cannot be read: {damage}"
            if fault is None:
                return record
            log.warning("checkpoint %s is damaged (%s); taking the one before", name, fault)
        return None

    def _fault(self, record: dict[str, Any]) -> str | None:
        folder = f"{FOLDER}/step-{record['step']:08d}"
        with tempfile.TemporaryDirectory(prefix="raypipe-check-") as local:
            for name, entry in record["files"].items():
                target = Path(local) / "file"
                try:
                    self._store.fetch(f"{folder}/{name}", target)
                except FileNotFoundError:
                    return f"{name} is missing"
                if _sha256(target) != entry["sha256"]:
                    return f"{name} differs from its hash"
        return None

    def _records(self) -> list[str]:
        return [n for n in self._store.list(FOLDER, ".json") if n.count("/") == 1]

    def _forget(self) -> None:
        """Removes what is older than the checkpoints to keep: the record first, then its files."""
        found = {int(n.removesuffix(".json").rpartition("-")[2]): n for n in self._records()}
        protected = self._protect(list(found)) | set(list(found)[-self._keep :])
        kept = {n.removesuffix(".json") for step, n in found.items() if step in protected}
        for step, name in found.items():
            if step not in protected:
                self._store.delete(name)
        for name in self._store.list(FOLDER):
            if "/".join(name.split("/")[:2]).removesuffix(".json") not in kept:
                self._store.delete(name)


def _sha256(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
