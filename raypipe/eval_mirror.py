"""An eval root on object storage as a local tree: everything is there by name, what is opened is fetched.

The benchmarks read local paths, look for the media by name and never open them. So the tree holds an empty
stand-in for every object, as long as the object (a sparse file without permissions), and ``fetched`` puts an
annotation file in its place the moment a reader opens it. Media are never fetched here: who decodes them
reads them from the storage. A tree lasts: the next run lists again, and drops what has another size or ETag.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from raypipe.errors import RaypipeError, RequestError
from raypipe.records import fingerprint
from raypipe.settings import local
from raypipe.store.files import FileState, Store
from raypipe.store.node import locked, node_folder, refusals

STAND_IN, FETCHED = 0o000, 0o444  # permissions tell one from the other, also after a crash
AT_ONCE = 16  # listings, and small files
SMALL = 64 << 10  # bytes; of such files there may be thousands in a folder (MME), and they come together
Listing = dict[str, FileState]

_mirrors: dict[str, EvalMirror] = {}  # by local tree


def fetched(path: Path) -> Path:
    """The same path, its content there if it is a file of a mirrored tree; to be called before it is opened.

    Raises:
        RequestError: the object has changed since the tree was listed.
        ServiceError: the storage or the disk refused.
    """
    if _mirrors:
        text = os.path.abspath(path)
        for tree, mirror in list(_mirrors.items()):
            if text.startswith(tree + "/"):
                mirror.fetch(text[len(tree) + 1 :])
    return path


@contextlib.contextmanager
def eval_tree(root: str, folders: Iterable[str], *, publish: bool = False) -> Iterator[Path]:
    """An eval root as a local folder; errors name the root that was given and not the folder.

    Args:
        root: a local folder, or an address such as ``s3://bucket/prefix``.
        folders: what is needed of it; a local root is taken as it is.
        publish: what the block writes into the tree is put to the remote root at its end.

    Raises:
        RequestError: nothing is at a remote root.
        ServiceError: the storage or this machine's disk refused.
    """
    if "://" not in root:
        yield Path(local(root))
        return
    wanted = sorted(set(folders))
    mirror = open_mirror(root, wanted)
    with mirror.named():
        yield mirror.path
        if publish:
            for folder in wanted:
                mirror.publish(folder)


def open_mirror(root: str, folders: Iterable[str]) -> EvalMirror:
    """The local tree of a remote eval root, as these folders are now.

    Raises:
        RequestError: nothing is at the root at all.
        ServiceError: the storage or this machine's disk refused.
    """
    mirror = EvalMirror(root)
    if not mirror.refresh(folders) and not mirror.store.is_there():
        raise RequestError(f"no such eval root: {root}", "nothing is there; check bucket and prefix")
    known = _mirrors.setdefault(str(mirror.path), mirror)
    known.listings |= mirror.listings
    return known


class EvalMirror:
    """The local tree of one remote eval root; processes of a machine share it."""

    def __init__(self, root: str) -> None:
        self.store = Store(root)
        self.root = self.store.root
        home = node_folder("eval") / fingerprint(self.root)
        self.path = Path(os.path.abspath(home / "tree"))
        self._home = home
        self.listings: dict[str, Listing] = {}

    def said(self, text: str) -> str:
        """A text with the root in place of the tree."""
        return text.replace(str(self.path), self.root)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors of the block name the root and not the tree."""
        try:
            yield
        except RaypipeError as fault:
            fault.message, fault.remedy = self.said(fault.message), self.said(fault.remedy)
            fault.args = (fault.message, *fault.args[1:])
            raise

    def refresh(self, folders: Iterable[str]) -> int:
        """Lists these folders and makes the tree agree; returns how many files are in them."""
        wanted = sorted(set(folders))
        with refusals(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with locked(self._home / "lock"):
            with ThreadPoolExecutor(AT_ONCE, "raypipe-list") as pool:
                found = list(pool.map(self.store.states, wanted))
            for folder, listing in zip(wanted, found, strict=True):
                kept = {n: s for n, s in listing.items() if _is_name(n)}
                self._agree(folder, kept)
                self.listings[folder] = kept
        return sum(len(listing) for listing in self.listings.values())

    def fetch(self, name: str) -> None:
        """Puts the content of a file in the place of its stand-in, and of small ones beside it, too."""
        if not self._is_stand_in(name):
            return
        size = self._state(name).size
        todo = [name]
        if size <= SMALL:
            beside = PurePosixPath(name)
            todo += [n for n in self._beside(beside) if n != name and self._is_stand_in(n)]
        with ThreadPoolExecutor(min(AT_ONCE, len(todo)), "raypipe-fetch") as pool:
            list(pool.map(self._fetch, todo))

    def publish(self, folder: str) -> int:
        """Puts files that were written into the tree where the root is; returns how many.

        Raises:
            ServiceError: the storage refused.
        """
        there = {name: state.size for name, state in self.listings.get(folder, {}).items()}
        names = [n for n in self._written(folder) if there.get(n) != (self.path / n).stat().st_size]

        def put(name: str) -> None:
            self.store.replace_from(name, self.path / name)

        with ThreadPoolExecutor(AT_ONCE, "raypipe-put") as pool:
            list(pool.map(put, names))
        return len(names)

    def _agree(self, folder: str, new: Listing) -> None:
        record = self._home / f"{fingerprint(folder)}.json"
        old = _read_record(record)
        if not old:  # nothing vouches for what is there
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for name in old.keys() - new.keys():
            with contextlib.suppress(OSError):
                os.unlink(self.path / name)
        made: set[Path] = set()
        for name, state in new.items():
            file = self.path / name
            if old.get(name) != state or not _has_size(file, state.size):
                self._stand_in(file, state, made)
        if old != new:
            with refusals(record):
                _write_whole(record, json.dumps(new).encode())

    def _stand_in(self, file: Path, state: FileState, made: set[Path]) -> None:
        with contextlib.suppress(_NoPath), refusals(file), _no_path():
            if file.parent not in made:
                file.parent.mkdir(parents=True, exist_ok=True)
                made.add(file.parent)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, STAND_IN)
            try:
                os.ftruncate(handle, state.size)
                os.fchmod(handle, STAND_IN)
            finally:
                os.close(handle)

    def _fetch(self, name: str) -> None:
        expected, file = self._state(name), self.path / name
        temporary = file.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            self.store.fetch(name, temporary)
            now = self.store.state(name)
            if now != expected or temporary.stat().st_size != expected.size:
                raise RequestError(
                    f"{self.root}/{name} has changed while it was read", "run the same command again"
                )
            with refusals(file):
                os.chmod(temporary, FETCHED)
                os.replace(temporary, file)
        except FileNotFoundError:
            raise RequestError(f"{self.root}/{name} went away while it was read") from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _state(self, name: str) -> FileState:
        found = (listing[name] for listing in self.listings.values() if name in listing)
        return next(found, FileState(-1, ""))

    def _beside(self, name: PurePosixPath) -> list[str]:
        """Small files of the same kind in the same folder."""
        parent, suffix = f"{name.parent}/", name.suffix
        rows = (row for listing in self.listings.values() for row in listing.items())
        return [
            n
            for n, state in rows
            if n.startswith(parent)
            and n.endswith(suffix)
            and "/" not in n[len(parent) :]
            and state.size <= SMALL
        ]

    def _is_stand_in(self, name: str) -> bool:
        try:
            found = os.lstat(self.path / name)
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == STAND_IN

    def _written(self, folder: str) -> Sequence[str]:
        """Files below a folder of the tree that neither stand in for an object nor were fetched."""
        names = []
        for place, _, files in os.walk(self.path / folder):
            for file in files:
                mode = stat.S_IMODE(os.lstat(os.path.join(place, file)).st_mode)
                if mode not in (STAND_IN, FETCHED) and not file.startswith("."):
                    names.append(os.path.relpath(os.path.join(place, file), self.path))
        return sorted(names)


class _NoPath(Exception):
    """A name of an object that cannot be a path here; the benchmarks find no such file."""


@contextlib.contextmanager
def _no_path() -> Iterator[None]:
    try:
        yield
    except OSError as fault:  # too long, or both a file and a folder
        if fault.errno in (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            raise _NoPath from fault
        raise
    except ValueError as fault:  # half a character
        raise _NoPath from fault


def _has_size(file: Path, size: int) -> bool:
    try:
        found = os.lstat(file)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _is_name(name: str) -> bool:
    return not any(part in ("", ".", "..") for part in name.split("/")) and "\0" not in name


def _read_record(file: Path) -> Listing:
    try:
        body: Any = json.loads(file.read_text(encoding="utf-8"))
        return {name: FileState(int(size), str(stamp)) for name, (size, stamp) in body.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_whole(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, file)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
