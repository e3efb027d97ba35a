"""Checkpoints: every rank puts its file, then one record with the hashes of all makes them count.

``checkpoints/step-N-ATTEMPT/rank-R.safetensors`` is what rank R holds (fragments.py), ``rank-R.json`` beside
it its hash, and ``checkpoints/step-N.json`` the record, written last, by rank 0. Ranks wait for each other by
looking into the store, so a checkpoint is written in a thread while training goes on. One without its record
does not exist; one whose files are not what the record says is passed over, aloud, for the one before it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import torch

from raypipe.errors import RequestError
from raypipe.store.files import Store
from raypipe.train.fragments import Image

FOLDER = "checkpoints"
FORMAT = 1  # of records; raypipe 0.1 had DeepSpeed's own files and none
FIRST_LOOK_S, LONGEST_LOOK_S = 0.01, 0.5  # between looks for the files of other ranks
BEAT_S = 1.0
GRACE_S = 10.0  # for a checkpoint in the background when the run ends with an error
log = logging.getLogger(__name__)


class Damaged(ValueError):
    """A record or one of its files is not what was written."""


class Foreign(ValueError):
    """A record in another format."""


class Checkpoints:
    """The checkpoints of one training run, as one rank sees them.

    Args:
        rank, world: this rank and how many there are.
        keep: how many committed checkpoints stay.
        gather: collects one value from each rank on all ranks (a barrier, too). It is called in the
            thread that calls ``newest`` and ``commit``, never in the one that writes.
        asynchronous: write in a thread of its own; otherwise ``commit`` returns when all is written.
        protect: of the committed steps, those that must stay beside the newest ``keep``; called on rank 0,
            in the thread that writes.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world: int,
        keep: int,
        gather: Callable[[Any], list[Any]] | None = None,
        *,
        asynchronous: bool = False,
        protect: Callable[[Iterable[int]], set[int]] | None = None,
    ) -> None:
        self._store, self._rank, self._world, self._keep = store, rank, world, keep
        self._gather = gather or (lambda value: [value])
        self._asynchronous, self._protect = asynchronous, protect
        self._attempt = ""
        self._image: Image | None = None
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None
        self._stop = threading.Event()
        self.beat: Callable[[], object] = lambda: None  # called about once a second while ``wait`` waits
        self._damaged: set[str] = set()  # records that were passed over: removed with the next commit

    @property
    def attempt(self) -> str:
        """The name of this start of all ranks; the first use is a collective."""
        if not self._attempt:
            self._attempt = str(self._gather(uuid.uuid4().hex[:8])[0])
        return self._attempt

    def commit(
        self,
        tensors: Mapping[str, torch.Tensor],
        step: int,
        extra: Mapping[str, Any],
        aside: Mapping[str, bytes] | None = None,
    ) -> None:
        """Saves a checkpoint: copies the tensors now, and writes them in the background.

        Waits for the write before it, if that is still going on. All ranks call it with the same step.

        Args:
            tensors: this rank's fp32 fragments by key; they may change as soon as this returns.
            extra: what else the record says; rank 0's counts.
            aside: files that are put before the record; rank 0's count.

        Raises:
            ServiceError: also of the write before: the disk or the service refused.
        """
        self.wait()
        folder = f"{FOLDER}/step-{step:08d}-{self.attempt}"
        if self._image is None or not self._image.holds(tensors):
            self._image = Image(tensors)
        self._image.take(tensors)
        if not self._asynchronous:
            self._write(self._image.data, folder, step, dict(extra), dict(aside or {}))
            return
        arguments = (self._image.data, folder, step, dict(extra), dict(aside or {}))
        self._thread = threading.Thread(target=self._guarded, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what went wrong in the background, if anything has; costs nothing."""
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def wait(self) -> None:
        """Returns when this rank has written all it has to; on rank 0, when the checkpoint is committed."""
        if self._thread is not None:
            while self._thread.is_alive():
                self._thread.join(BEAT_S)
                self.beat()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Lets a write that is going on end, but stops looking for the files of ranks that may be gone."""
        if self._thread is not None:
            self._thread.join(GRACE_S)
        self._stop.set()

    def newest(self) -> dict[str, Any] | None:
        """The record of the newest checkpoint that is whole; None where there is none. A collective.

        Raises:
            RequestError: the newest was written in another format.
        """
        _ = self.attempt
        for name in reversed(self._gather(_names(self._store) if self._rank == 0 else None)[0]):
            fault, record = None, None
            try:
                record = _read(self._store, name)
                self._verify(record)
            except Foreign as other:
                raise RequestError(
                    f"{self._store.root}/{name} is no checkpoint of this raypipe: {other}",
                    "continue with the raypipe that wrote it, or name another out=",
                ) from None
            except Damaged as damage:
                fault = str(damage)
            faults = [f for f in self._gather(fault) if f is not None]
            if not faults:
                return record
            log.warning("checkpoint %s is damaged (%s); taking the one before", name, faults[0])
            self._damaged.add(name)
        return None

    def _verify(self, record: dict[str, Any]) -> None:
        """This rank's share of the files: over all ranks each is read once."""
        files = sorted(record["files"].items())
        listed = {f"{record['folder']}/{name}": entry for name, entry in files[self._rank :: self._world]}
        if self._rank == 0:
            listed |= {segment["path"]: segment for segment in record.get("ledger", [])[-1:]}
        for name, entry in listed.items():
            try:
                found = self._store.measure(name)
            except FileNotFoundError:
                raise Damaged(f"{name} is missing") from None
            if found != (entry["bytes"], entry["sha256"]):
                raise Damaged(f"{name} differs from its hash")

    def _guarded(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as fault:
            self._fault = fault

    def _write(
        self, data: bytearray, folder: str, step: int, extra: dict[str, Any], aside: dict[str, bytes]
    ) -> None:
        name = f"rank-{self._rank:05d}"
        self._store.replace(f"{folder}/{name}.safetensors", data)  # type: ignore[arg-type]
        mine = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._store.replace(f"{folder}/{name}.json", json.dumps(mine).encode())
        if self._rank != 0:
            return
        files = self._files(folder)
        if files is None:
            return
        for path, content in aside.items():
            self._store.replace(path, content)
        body = {**extra, "format": FORMAT, "step": step, "attempt": self._attempt, "world": self._world}
        self._store.replace(record_name(step), _dump({**body, "folder": folder, "files": files}))
        self._forget(step)

    def _files(self, folder: str) -> dict[str, Any] | None:
        """What all ranks say of their files, as soon as the last has; None if the run ends before."""
        pause, found = FIRST_LOOK_S, dict[str, Any]()
        for rank in range(self._world):
            name = f"rank-{rank:05d}"
            while not self._store.exists(f"{folder}/{name}.json"):
                if self._stop.wait(pause):
                    return None
                pause = min(2 * pause, LONGEST_LOOK_S)
            found[f"{name}.safetensors"] = json.loads(self._store.read(f"{folder}/{name}.json"))
        return found

    def _forget(self, step: int) -> None:
        """Removes what no kept record needs: the record first, then its files.

        Left alone is what this start of the run may still be writing: other ranks may be a step ahead.
        """
        names = [n for n in _names(self._store) if n not in self._damaged or n == record_name(step)]
        kept = set(names[-self._keep :])
        if self._protect is not None:
            kept |= {record_name(s) for s in self._protect([step_of(n) for n in names])} & set(names)
        for name in [n for n in _names(self._store) if n not in kept]:
            self._store.delete(name)
        self._damaged.clear()
        needed: set[str] = set()
        for name in kept:
            try:
                record = _read(self._store, name)
                needed |= {record["folder"], *(s["path"] for s in record.get("ledger", []))}
            except (Damaged, Foreign) as fault:
                log.warning("checkpoint %s cannot be read (%s): nothing is removed", name, fault)
                return
        self._store.delete_many(n for n in self._old(step) if needed.isdisjoint((n, n.rpartition("/")[0])))

    def _old(self, step: int) -> list[str]:
        """The files of checkpoints and ledger that no rank of this start can still be writing."""
        old = []
        for name in [*self._store.list(FOLDER), *self._store.list("ledger", ".arrow")]:
            parts = PurePosixPath(name).parts
            if parts[0] == FOLDER and len(parts) == 2:
                continue  # a record
            words = PurePosixPath(parts[1]).stem.split("-")  # step-N-ATTEMPT; FIRST-LAST-ATTEMPT
            coming = words[-1] == self._attempt and words[1].isdigit() and int(words[1]) > step
            if not coming:
                old.append(name)
        return old


def record_name(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}.json"


def step_of(name: str) -> int:
    return int(PurePosixPath(name).stem.removeprefix("step-"))


def records(store: Store) -> list[dict[str, Any]]:
    """The records of all committed checkpoints, oldest first; one that cannot be read is named and left out.

    A record has: ``step``, ``attempt``, ``world``, ``folder``, ``files`` (name -> bytes, sha256), and what
    the loop adds: ``updates``, ``elements``, ``seed``, ``position`` and ``ledger``.
    """
    found = []
    for name in _names(store):
        try:
            found.append(_read(store, name))
        except (Damaged, Foreign) as fault:
            log.warning("checkpoint %s cannot be read: %s", name, fault)
    return found


def _names(store: Store) -> list[str]:
    """The names of the records, oldest first."""
    names = [n for n in store.list(FOLDER, ".json") if n.count("/") == 1]
    return sorted(n for n in names if PurePosixPath(n).stem.removeprefix("step-").isdigit())


def _read(store: Store, name: str) -> dict[str, Any]:
    try:
        data = store.read(name)
        body = json.loads(data)
    except (FileNotFoundError, ValueError) as fault:
        raise Damaged(f"its record cannot be read: {fault}") from None
    if isinstance(body, dict) and {"format", "sha256"}.isdisjoint(body) and "step" in body:
        raise Foreign("its record has no format")
    if not isinstance(body, dict) or _dump({k: v for k, v in body.items() if k != "sha256"}) != data:
        raise Damaged("its record is not what was written")
    if body.get("format") != FORMAT:
        raise Foreign(f"its format is {body.get('format')}, not {FORMAT}")
    if body["step"] != step_of(name):
        raise Damaged(f"it is of step {body['step']}")
    return body


def _dump(body: dict[str, Any]) -> bytes:
    """The record as it is written: sorted, with the hash of all the rest in it."""
    plain = json.dumps(body, sort_keys=True).encode()
    whole = {**body, "sha256": hashlib.sha256(plain).hexdigest()}
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()
