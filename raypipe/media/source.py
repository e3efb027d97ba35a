"""Where media lie: a folder or an ``s3://`` prefix; their states without reading, and one as a local file.

What is wrong with a medium is a ``MediumError``; a storage that fails is a ``ServiceError``, because no
medium may end in quarantine for an outage.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat as modes
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from raypipe.errors import ServiceError
from raypipe.media.fault import MediumError
from raypipe.records import MediumKind, Reason, fingerprint
from raypipe.settings import local

_LISTERS = 16  # folders of a remote root that are listed at once
_FETCH_TRIES = 3  # of a download that comes out short


@dataclass(frozen=True)
class State:
    """A medium as its storage describes it: bytes, and ETag or time of change (nanoseconds).

    ``size`` is -1 for what is missing or cannot be named.
    """

    size: int
    stamp: str


MISSING = State(-1, "")


def medium_key(kind: MediumKind, path: str, state: State) -> str:
    """Names a medium by kind, path, size and ETag or time of change, without reading it."""
    return fingerprint(kind, path, state.size, state.stamp)


class MediaRoot:
    """The media below one root.

    Args:
        root: a folder (``~`` allowed) or an fsspec address such as ``s3://bucket/prefix``.
    """

    def __init__(self, root: str) -> None:
        self.root = local(str(root)).rstrip("/") or "/"
        self.is_local = "://" not in self.root
        self._opened: Any = None

    def __reduce__(self):
        return (MediaRoot, (self.root,))

    def __repr__(self) -> str:
        return f"MediaRoot({self.root!r})"

    def states(self, paths: Iterable[str]) -> dict[str, State]:
        """The state of every path; nothing is read.

        ``MISSING`` where there is no regular file, or where the path may not be opened (it leads out of
        the root, or is no name); ``local_file`` says which.

        Raises:
            ServiceError: a remote storage fails.
        """
        return self._local_states(paths) if self.is_local else self._remote_states(paths)

    def state(self, path: str) -> State:
        """The state of one medium; of a remote root by one request, without listing its folder.

        Raises:
            ServiceError: a remote storage fails.
        """
        if self.is_local:
            return self._local_states([path])[path]
        if _leads_out(path) or not _is_text(path):
            return MISSING
        try:
            return self._look(self._address(path))
        except MediumError:
            return MISSING

    @contextlib.contextmanager
    def local_file(self, path: str, expected: State | None = None) -> Iterator[Path]:
        """The medium as a local regular file, for as long as the block runs.

        Of a remote root it is a private copy that is removed at the end.

        Args:
            expected: what was planned; None, or a size below 0, asks for no check.

        Raises:
            MediumError: missing, empty, outside of the root, no file, not (or no longer) the planned one.
            ServiceError: the root is not there, a remote storage fails, or there is no room for the copy.
        """
        planned = expected if expected and expected.size >= 0 else None
        if self.is_local:
            with _watched(resolve(self.root, path), planned) as file:
                yield file
            return
        check_name(path)
        with _private_folder() as folder:
            suffix = PurePosixPath(path).suffix
            file = folder / f"medium{suffix if re.fullmatch(r'[.][A-Za-z0-9]{1,8}', suffix) else ''}"
            self._download(path, file, planned)
            yield file

    def _local_states(self, paths: Iterable[str]) -> dict[str, State]:
        base = os.path.realpath(self.root)
        inside: dict[str, bool] = {}  # folder -> whether it leads to a place below the root
        found: dict[str, State] = {}
        for path in paths:
            found[path] = MISSING
            if _leads_out(path) or not _is_text(path):
                continue
            name = f"{base}/{path}"
            folder = os.path.dirname(name)
            with contextlib.suppress(OSError, ValueError):
                if folder not in inside:
                    inside[folder] = _is_below(os.path.realpath(folder), base)
                status = os.lstat(name)
                if modes.S_ISLNK(status.st_mode):
                    status = os.stat(name)
                    if not _is_below(os.path.realpath(name), base):
                        continue
                if inside[folder] and modes.S_ISREG(status.st_mode):
                    found[path] = _local_state(status)
        return found

    def _remote_states(self, paths: Iterable[str]) -> dict[str, State]:
        folders: dict[str, list[str]] = {}
        found: dict[str, State] = {}
        for path in paths:
            found[path] = MISSING
            if not _leads_out(path) and _is_text(path):
                folders.setdefault(self._address(path).rpartition("/")[0], []).append(path)
        with ThreadPoolExecutor(_LISTERS, "raypipe-list") as pool:
            for inside, states in zip(folders.values(), pool.map(self._listing, folders), strict=True):
                found.update((p, states[a]) for p in inside if (a := self._address(p)) in states)
        return found

    def _listing(self, folder: str) -> dict[str, State]:
        """Address -> state of the files in a folder; empty where there is no such folder."""
        try:
            rows = self._fs.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError) as fault:
            self._check_bucket(fault)
            return {}
        except Exception as fault:
            raise self._failed(fault) from fault
        return {row["name"]: _remote_state(row) for row in rows if row["type"] == "file"}

    def _download(self, path: str, file: Path, planned: State | None) -> None:
        # A plan with a stamp needs no look before: what has it afterwards had it all the time.
        address, known = self._address(path), bool(planned and planned.stamp)
        before = planned if planned and known else self._look(address)
        if before == MISSING:
            raise MediumError(Reason.MEDIA_MISSING, "no such object")
        _check(before, planned)
        if before.size == 0 and not known:
            raise MediumError(Reason.MEDIA_EMPTY, "the object has no bytes")
        for _ in range(_FETCH_TRIES):
            try:
                self._fs.get_file(address, str(file))
            except FileNotFoundError as fault:
                self._check_bucket(fault)
                if known:
                    raise MediumError(Reason.MEDIA_MISSING, "no such object") from None
                raise MediumError(Reason.MEDIA_CHANGED, "the object went away while it was read") from None
            except Exception as fault:
                raise self._failed(fault) from fault
            after = self._look(address)
            _check(after, planned)
            if not known and after != before:
                raise MediumError(Reason.MEDIA_CHANGED, "the object changed while it was read")
            if after.size == 0:
                raise MediumError(Reason.MEDIA_EMPTY, "the object has no bytes")
            got = file.stat().st_size
            if got == before.size:
                return
        raise ServiceError(
            f"{self.root} gives {got} of the {before.size} bytes of {path}", "look at the storage, run again"
        )

    def _look(self, address: str) -> State:
        try:
            row = self._fs.info(address)
        except FileNotFoundError as fault:
            self._check_bucket(fault)
            return MISSING
        except Exception as fault:
            raise self._failed(fault) from fault
        if row["type"] != "file":
            raise MediumError(Reason.MEDIA_UNREADABLE, "not an object but a folder")
        return _remote_state(row)

    @property
    def _fs(self) -> Any:
        if self._opened is None:
            import fsspec  # a child that decodes local files does not pay for it

            try:
                # Without a cache of listings: states() is asked to see what is there now.
                self._opened = fsspec.core.url_to_fs(self.root, use_listings_cache=False)[0]
            except Exception as fault:
                raise self._failed(fault) from fault
        return self._opened

    def _address(self, path: str) -> str:
        return f"{self._fs._strip_protocol(self.root).rstrip('/')}/{path}"

    def _check_bucket(self, fault: Exception) -> None:
        """A missing bucket is not a missing medium: a storage says "not found" to both."""
        if any(_code_of(cause) == "NoSuchBucket" for cause in _chain(fault)):
            raise ServiceError(
                f"there is no bucket for {self.root}", "give the right address in data_root="
            ) from fault

    def _failed(self, fault: Exception) -> ServiceError:
        said = " ".join(str(fault).split())[:200]
        remedy = "the storage did not answer as it should: look at it and at the network, then run again"
        if isinstance(fault, PermissionError) or "Credentials" in type(fault).__name__:
            remedy = "give this machine credentials that may list and read there, then run again"
        elif isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free space for temporary files, or name another folder in TMPDIR"
        elif isinstance(fault, (ImportError, ValueError)):
            remedy = "give a folder or an address such as s3://bucket/prefix in data_root="
        return ServiceError(f"cannot read {self.root}: {type(fault).__name__}: {said}", remedy)


def resolve(root: str, path: str) -> Path:
    """The file below a local media root that a record names.

    Only regular files inside the root are opened: no absolute path, no ``..``, no link that leads out.

    Raises:
        MediumError: with the reason.
        ServiceError: the root itself is not there.
    """
    check_name(path)
    base = Path(root).resolve()
    file = base / path
    try:
        real = file.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        if not base.is_dir():
            remedy = "mount it again, or give the right data_root="
            raise ServiceError(f"the media root {root} is not there", remedy) from None
        raise MediumError(Reason.MEDIA_MISSING, "no such file") from None
    except (OSError, RuntimeError, UnicodeError) as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, str(fault)[:200]) from None
    if not real.is_relative_to(base):
        raise MediumError(Reason.MEDIA_OUTSIDE_ROOT, "a link leads out of the media root")
    if not real.is_file():
        raise MediumError(Reason.MEDIA_UNREADABLE, "not a regular file")
    return real


def check_name(path: str) -> None:
    """Refuses a path that is no name below a root, whatever lies there."""
    if _leads_out(path):
        raise MediumError(Reason.MEDIA_OUTSIDE_ROOT, f"{path[:200]!r} is not a path below the media root")
    if not _is_text(path):
        raise MediumError(Reason.MEDIA_UNREADABLE, "the path holds half a character (a lone surrogate)")


@contextlib.contextmanager
def _watched(file: Path, planned: State | None) -> Iterator[Path]:
    """A local file that has to be the planned one, and the same at the end of the block."""
    before = _status(file)
    _check(_local_state(before), planned)
    if before.st_size == 0:
        raise MediumError(Reason.MEDIA_EMPTY, "the file has no bytes")
    try:
        yield file
    except MediumError:
        _check_same(file, before)  # what a decoder says of a file that is being written is not the cause
        raise
    _check_same(file, before)


def _check_same(file: Path, before: os.stat_result) -> None:
    try:
        after = os.stat(file)
    except OSError:
        raise MediumError(Reason.MEDIA_CHANGED, "the file went away while it was read") from None
    if (after.st_ino, _local_state(after)) != (before.st_ino, _local_state(before)):
        raise MediumError(Reason.MEDIA_CHANGED, "the file changed while it was read")


def _check(found: State, planned: State | None) -> None:
    if planned is None:
        return
    if found.size != planned.size:
        raise MediumError(Reason.MEDIA_CHANGED, f"{found.size} bytes, {planned.size} were planned")
    if found.stamp and planned.stamp and found.stamp != planned.stamp:
        detail = f"changed after the plan was made ({found.stamp}, {planned.stamp} was planned)"
        raise MediumError(Reason.MEDIA_CHANGED, detail)


def _status(file: Path) -> os.stat_result:
    try:
        return os.stat(file)
    except FileNotFoundError:
        raise MediumError(Reason.MEDIA_MISSING, "no such file") from None
    except OSError as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, str(fault)[:200]) from None


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="raypipe-medium-", ignore_cleanup_errors=True)
    except OSError as fault:
        raise ServiceError(
            f"no folder for temporary files: {fault}", "name a folder with room in TMPDIR"
        ) from fault
    with folder as name:
        yield Path(name)


def _leads_out(path: str) -> bool:
    parts = path.split("/")
    return "://" in path or path.startswith("/") or ".." in parts or "\0" in path


def _is_text(path: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in path)


def _is_below(real: str, base: str) -> bool:
    return real == base or real.startswith(base.rstrip("/") + "/")


def _local_state(status: os.stat_result) -> State:
    return State(status.st_size, str(status.st_mtime_ns))


def _remote_state(row: dict[str, Any]) -> State:
    stamps = (row.get(name) for name in ("ETag", "etag", "LastModified", "mtime", "created"))
    stamp = next((s for s in stamps if s), "")
    if isinstance(stamp, datetime):  # some storages give one time as a number in listings and so elsewhere
        stamp = stamp.timestamp()
    return State(int(row["size"] or 0), str(stamp).strip('"'))


def _chain(fault: BaseException | None) -> Iterator[BaseException]:
    while fault is not None:
        yield fault
        fault = fault.__cause__ or fault.__context__


def _code_of(fault: BaseException) -> str:
    return str((getattr(fault, "response", None) or {}).get("Error", {}).get("Code", ""))
