"""Frames out of finished prepare runs, in place of decoding a medium again.

A run's frames are taken only where its sampling, rendition and decoder are those that the medium would be
decoded with, so that they are the same bytes. That it is the same medium is known in one of two ways:

- the file is the one that the run read: the same place, kind, size and time of change (or ETag). This is
  the rule by which prepare itself continues, and nothing is read for it;
- the file, on a local disk, has the SHA-256 of a file that the run read, wherever that lay.

A remote medium that lies elsewhere than the run's is decoded: to hash it would be to fetch it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from raypipe.errors import DamageError, RequestError
from raypipe.media.decode import DecodeRequest
from raypipe.media.source import MISSING, MediaRoot, State, medium_key
from raypipe.records import Medium, MediumKind, MediumRef, media_of
from raypipe.settings import Rendition, Sampling
from raypipe.store.index import MediaReader
from raypipe.store.node import locked, node_folder, refusals
from raypipe.store.run import Run

UNITS = "units/"  # of a prepare run: one record a unit, with the hash of each file that it read
OPEN_RUNS = 64
KEY = len(medium_key(MediumKind.IMAGE, "", MISSING))
VERIFY = "raypipe verify shows what is damaged"
_log = logging.getLogger("raypipe.evaluate")


class PreparedFrames:
    """The media of some prepare runs; made anew where it is needed, for what it opens stays open.

    Args:
        runs: folders or addresses of finished prepare runs; the first that holds a medium gives it.
        root: the root that media are named below.
    """

    def __init__(self, runs: Sequence[str], root: str) -> None:
        self.runs, self.root = tuple(runs), MediaRoot(root)

    def find(self, ref: MediumRef, sampling: Sampling, rendition: Rendition) -> Medium | None:
        """The medium as decoding would give it; None where no run holds it made this way.

        Raises:
            RequestError: one of the runs is not a finished prepare run.
            ServiceError: a storage refused.
        """
        fitting = [run for run in map(_opened, self.runs) if run.fits(sampling, rendition)]
        if not fitting:
            return None
        state = self.root.state(ref.path)
        if state == MISSING or state.size == 0:
            return None
        digest = ""
        for run in fitting:
            key = run.key_at(self.root, ref, state)
            if key is None and self.root.is_local:
                digest = digest or _sha256(Path(self.root.root) / ref.path)
                key = run.key_of(ref.kind, digest)
            medium = run.medium(key, ref) if key is not None else None
            if medium is not None:
                return medium
        return None

    def at_their_place(
        self, refs: Iterable[MediumRef], sampling: Sampling, rendition: Rendition
    ) -> set[MediumRef]:
        """Those of some media that a run read at this very place; no file is read, no row looked at."""
        fitting = [run for run in map(_opened, self.runs) if run.fits(sampling, rendition)]
        wanted = list(refs)
        states = self.root.states(dict.fromkeys(ref.path for ref in wanted)) if fitting else {}
        return {
            ref
            for ref in wanted
            if fitting
            and states[ref.path].size > 0
            and any(run.key_at(self.root, ref, states[ref.path]) for run in fitting)
        }


def check_prepared(runs: Sequence[str], sampling: Sampling, rendition: Rendition) -> None:
    """Refuses runs that can hold no medium as it will be shown.

    Raises:
        RequestError: not a finished prepare run, or one that was made otherwise.
    """
    for address in runs:
        facts = _opened(address).facts
        other = [k for k, v in _recipe(sampling, rendition).items() if facts.get(k) != v]
        if other:
            raise RequestError(
                f"{address} cannot be used: made with another {', '.join(other)} than the model is shown",
                "leave it out of prepared=, or set sampling= and rendition= to the run's",
            )


class _Run:
    """One finished prepare run."""

    def __init__(self, address: str) -> None:
        run = Run.open(address, "prepare")
        self._store, manifest = run.store, run.manifest
        self.facts: dict[str, Any] = manifest["facts"]
        self._units = [f["path"] for f in manifest["files"] if f["path"].startswith(UNITS)]
        self._name = run.commit_record["manifest_sha256"]
        self._root = MediaRoot(run.settings["settings"]["data_root"])
        self._reader = MediaReader(run.store)
        self._hashes: tuple[np.ndarray, np.ndarray] | None = None

    def fits(self, sampling: Sampling, rendition: Rendition) -> bool:
        return all(self.facts.get(k) == v for k, v in _recipe(sampling, rendition).items())

    def key_at(self, root: MediaRoot, ref: MediumRef, state: State) -> str | None:
        """The key of a medium that the run read at this very place, as it is there now."""
        for path in _below(self._root, root, ref.path):
            key = medium_key(ref.kind, path, state)
            place = self._reader.index.find(key)
            if place is not None and place.what == "medium":
                return key
        return None

    def key_of(self, kind: MediumKind, digest: str) -> str | None:
        """The key of a medium of this kind whose file had this hash."""
        hashes, keys = self._contents()
        wanted = np.uint64(int(digest[:16], 16))
        at = int(np.searchsorted(hashes, wanted))
        while at < len(hashes) and hashes[at] == wanted:
            key = keys[at].decode()
            if self._reader.index.find(key) is not None:
                row = self._row(key)
                if row is not None and (row["sha256"], row["kind"]) == (digest, kind.value):
                    return key
            at += 1
        return None

    def medium(self, key: str, ref: MediumRef) -> Medium | None:
        row = self._row(key)
        if row is None or row["kind"] != ref.kind.value:
            return None
        return replace(media_of([row])[0], key=ref.path, path=ref.path)

    def _row(self, key: str) -> dict[str, Any] | None:
        """A row; None where it is damaged, for its medium can still be decoded."""
        try:
            return self._reader.row(key)
        except DamageError as fault:
            _log.warning("%s; its media are decoded instead", fault.message)
            return None

    def _contents(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all files that the run read, sorted, and the key of each: memory mapped.

        They are gathered once on each machine; the first 8 bytes of a hash are kept of each.
        """
        if self._hashes is None:
            folder = node_folder("prepared")
            files = [folder / f"{self._name}-{what}.npy" for what in ("keys", "hashes")]
            with locked(folder / f"{self._name}.lock"):
                if not files[1].exists():  # the last to be written
                    for file, values in zip(files, self._gathered(), strict=True):
                        _save(file, values)
            keys, hashes = (np.load(file, mmap_mode="r") for file in files)
            self._hashes = hashes, keys
        return self._hashes

    def _gathered(self) -> tuple[np.ndarray, np.ndarray]:
        hashes, keys = array("Q", [0]), bytearray(b"-" * KEY)  # a first row, for no file can be empty
        for key, digest in self._sources():
            if len(key) != KEY:
                raise DamageError(f"{self._store.root} has a medium with the key {key[:60]!r}", VERIFY)
            hashes.append(int(digest[:16], 16))
            keys += key.encode()
        values, names = np.frombuffer(hashes, np.uint64), np.frombuffer(bytes(keys), f"S{KEY}")
        order = np.argsort(values, kind="stable")
        return names[order], values[order]

    def _sources(self) -> Iterator[tuple[str, str]]:
        """Key and hash of every medium, one unit's record in memory at a time."""
        for name in self._units:
            try:
                yield from json.loads(self._store.read(name))["source_sha256"].items()
            except (FileNotFoundError, ValueError, KeyError, AttributeError) as fault:
                said = f"{self._store.root}/{name} is damaged ({type(fault).__name__})"
                raise DamageError(said, VERIFY) from fault


@lru_cache(maxsize=OPEN_RUNS)
def _opened(address: str) -> _Run:
    return _Run(address)


def _recipe(sampling: Sampling, rendition: Rendition) -> dict[str, Any]:
    """What decides the frames of a medium, as a prepare run's manifest states it."""
    return {
        "sampling": sampling.model_dump(mode="json"),
        "rendition": rendition.model_dump(mode="json"),
        "decoder": DecodeRequest.decoder,
    }


def _below(base: MediaRoot, root: MediaRoot, path: str) -> list[str]:
    """What a medium of one root is called below another; nothing where it does not lie there."""
    if base.is_local != root.is_local:
        return []
    full = f"{root.root.rstrip('/')}/{path}"
    pairs = [(full, base.root)]
    if base.is_local:
        pairs.append((os.path.realpath(full), os.path.realpath(base.root)))
    tops = ((name, top.rstrip("/") + "/") for name, top in pairs)
    return list(dict.fromkeys(name[len(top) :] for name, top in tops if name.startswith(top)))


def _sha256(file: Path) -> str:
    """The hash of a file; of one that cannot be read that of nothing, which no medium has."""
    try:
        with open(file, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return hashlib.sha256().hexdigest()


def _save(file: Path, values: np.ndarray) -> None:
    temporary = file.with_name(f".{uuid.uuid4().hex}.npy")
    with refusals(file):
        np.save(temporary, values)
        os.replace(temporary, file)
