"""Models on object storage: a node fetches one once, whatever the number of its processes that ask for it.

A model's files lie in one folder of the machine, whose name is made from names, sizes and ETags of the
objects, so another model at the same address is another folder. It appears whole, by rename; who fetches it
holds its lock, and the others wait for that. Every process that uses a folder holds a shared lock on it until
it ends; when all folders together would pass the limit, those that nobody uses go, the longest unused first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from raypipe.errors import DamageError, RequestError, ServiceError
from raypipe.records import fingerprint
from raypipe.store.files import FileState, Store
from raypipe.store.node import GIB, locked, node_folder, node_limit, refusals
from raypipe.store.run import Run

AT_ONCE = 8  # files
ADDRESS = "give the address of a training run's out= or of a folder of weights"
# What trainers leave beside a model, and no loader reads: optimizer states, many times its size.
LEFT_BEHIND = re.compile(r"(checkpoint-\d+|global_step\d+|checkpoints?|optimizer|runs|\.git)/")
_in_use: dict[str, int] = {}  # folder -> an open file with its shared lock, until this process ends


@dataclass(frozen=True)
class Remote:
    """The files of a model by their names below its address, and the hashes that are known of them."""

    store: Store
    prefix: str
    files: Mapping[str, FileState]
    hashes: Mapping[str, str]

    @property
    def bytes(self) -> int:
        return sum(state.size for state in self.files.values())

    @property
    def name(self) -> str:
        """A folder's name: by content, and for people."""
        last = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(self.store.root).name)[-60:]
        return f"{fingerprint(sorted((n, *s) for n, s in self.files.items()))}-{last}"


def near_model(address: str) -> Path:
    """The model folder that an address means, as a folder of this machine.

    Takes a finished training run, of which its model alone is fetched, or a folder of weights.

    Raises:
        RequestError: no model is there, or the run is not finished.
        ServiceError: the storage or the disk refused, or the model is larger than this machine may keep.
        DamageError: a file of a training run is not what was committed.
    """
    remote = find_model(address)
    home = node_folder("models")
    folder = home / remote.name
    with locked(home / f"{remote.name}.lock"):
        if not _is_whole(folder, remote):
            _fetch(remote, folder)
        _use(folder)
    return folder


def bytes_to_fetch(address: str) -> int:
    """Bytes that ``near_model`` would fetch now; 0 where the model is on this machine.

    Raises:
        RequestError, ServiceError: as ``find_model``.
    """
    remote = find_model(address)
    return 0 if _is_whole(node_folder("models") / remote.name, remote) else remote.bytes


def find_model(address: str) -> Remote:
    """What ``near_model`` would fetch; nothing is.

    Raises:
        RequestError: no model is there, or the run is not finished.
        ServiceError: the storage refused.
    """
    store = Store(address)
    found = {n: s for n, s in store.states().items() if not LEFT_BEHIND.match(n)}
    prefix, hashes = "", {}
    if "settings.json" in found and "config.json" not in found:
        run, prefix = Run.open(address, "train"), "model/"
        hashes = {f["path"]: f["sha256"] for f in run.manifest["files"] if f["path"].startswith(prefix)}
    files = {n: s for n, s in found.items() if n.startswith(prefix)}
    if not {prefix + "config.json", prefix + "adapter_config.json"} & files.keys():
        said = "holds neither config.json nor adapter_config.json" if found else "nothing is there"
        raise RequestError(f"no model at {address}: {said}", ADDRESS)
    return Remote(store, prefix, files, hashes)


def _fetch(remote: Remote, folder: Path) -> None:
    """Fetches all files beside the place and puts them there at once; the model's lock is held."""
    part, done = folder.with_name(f"{folder.name}.part"), False
    shutil.rmtree(part, ignore_errors=True)  # of a process that died
    _make_room(remote, folder)
    try:
        with ThreadPoolExecutor(AT_ONCE, "raypipe-model") as pool:
            fetched = dict(pool.map(lambda name: _fetch_file(remote, part, name), remote.files))
        with refusals(folder):
            shutil.rmtree(folder, ignore_errors=True)  # one that is not whole
            os.rename(part, folder)
            _record(folder).write_text(
                json.dumps({"bytes": remote.bytes, "files": fetched}), encoding="utf-8"
            )
        done = True
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if not done:
            with contextlib.suppress(OSError):
                _record(folder).unlink()


def _fetch_file(remote: Remote, part: Path, name: str) -> tuple[str, list[int]]:
    target = part / name.removeprefix(remote.prefix)
    with refusals(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        remote.store.fetch(name, target)
        now = remote.store.state(name)
    except FileNotFoundError:
        now = None
    if now != remote.files[name] or target.stat().st_size != now.size:
        raise RequestError(f"{remote.store.root}/{name} has changed while it was fetched", "run it again")
    if name in remote.hashes and _sha256(target) != remote.hashes[name]:
        raise DamageError(
            f"{remote.store.root}/{name} is not what was committed", f"raypipe verify {remote.store.root}"
        )
    status = target.stat()
    return str(target.relative_to(part)), [status.st_size, status.st_mtime_ns]


def _is_whole(folder: Path, remote: Remote) -> bool:
    """Whether the folder is as it was fetched, by sizes and times of its files."""
    files = _read_record(folder).get("files")
    names = {n.removeprefix(remote.prefix) for n in remote.files}
    if not isinstance(files, dict) or files.keys() != names:
        return False
    try:
        found = {name: os.stat(folder / name) for name in files}
    except OSError:
        return False
    return all([s.st_size, s.st_mtime_ns] == files[name] for name, s in found.items())


def _use(folder: Path) -> None:
    """Marks a folder as used now, and as in use until this process ends."""
    with refusals(folder):
        os.utime(_record(folder))
        if str(folder) not in _in_use:
            handle = _opened(folder.with_name(f"{folder.name}.use"))
            fcntl.flock(handle, fcntl.LOCK_SH)
            _in_use[str(folder)] = handle


def _make_room(remote: Remote, folder: Path) -> None:
    """Removes folders that nobody uses until there is room for one more.

    Raises:
        ServiceError: there is none.
    """
    limit, needed = node_limit(), remote.bytes
    with locked(folder.parent / "room.lock"):
        kept = {p.name.removesuffix(".json"): p for p in folder.parent.glob("*.json") if p != _record(folder)}
        sizes = {name: int(_read_record(folder.parent / name).get("bytes", 0)) for name in kept}
        for name in sorted(kept, key=lambda n: _used_at(kept[n])):
            if sum(sizes.values()) + needed <= limit:
                break
            if _remove(folder.parent / name):
                del sizes[name]
        taken = sum(sizes.values())
        if taken + needed > limit:
            raise ServiceError(
                f"{remote.store.root} takes {_gib(needed)} GiB, and of {_gib(limit)} GiB for models on this "
                f"machine {_gib(taken)} are in use",
                f"export {GIB}=... with more, or give the model as a folder that all nodes see",
            )
        with refusals(folder):  # counted from now on
            _record(folder).write_text(json.dumps({"bytes": needed}), encoding="utf-8")


def _remove(folder: Path) -> bool:
    """Removes a folder unless a process uses it or fetches it."""
    with contextlib.ExitStack() as stack:
        for kind in ("lock", "use"):
            if not stack.enter_context(_free(folder.with_name(f"{folder.name}.{kind}"))):
                return False
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_name(f"{folder.name}.part"), ignore_errors=True)
        with contextlib.suppress(OSError):
            _record(folder).unlink()
    return True


@contextlib.contextmanager
def _free(file: Path) -> Iterator[bool]:
    handle = _opened(file)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(handle)


def _opened(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        body = json.loads(_record(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.3g}"


def _used_at(record: Path) -> float:
    try:
        return record.stat().st_mtime
    except OSError:
        return time.time()


def _sha256(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
