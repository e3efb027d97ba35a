"""A data root: a folder, or an address such as ``s3://bucket/prefix``, and the annotation files below it."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import fsspec

from raypipe.errors import RaypipeError, RequestError, ServiceError, nearest
from raypipe.settings import local

BLOCK_BYTES = 4 << 20  # read ahead of a remote file


class DataRoot:
    """The annotation files below one root.

    Raises:
        RequestError: no such folder or prefix, or an address that no installed package can read.
        ServiceError: the storage refused.
    """

    def __init__(self, root: str) -> None:
        self.root = local(root).rstrip("/") or "/"
        self._fs: Any = None
        if "://" not in self.root:
            if not os.path.isdir(self.root):
                raise RequestError(
                    f"no such data root: {self.root}", "set data_root=... to the folder that holds the media"
                )
            return
        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.root)
        except (ValueError, ImportError) as fault:
            raise RequestError(
                f"cannot read data_root={self.root}: {fault}", "give a folder, or s3://bucket/prefix"
            ) from None
        with self._reading(""):
            there = self._fs.exists(self.root)
        if not there:
            raise RequestError(f"no such data root: {self.root}", "nothing is there; check bucket and prefix")

    def where(self, name: str) -> str:
        """The full path or address of a name."""
        return f"{self.root}/{name}" if self._fs else os.path.join(self.root, name)

    def expand(self, patterns: list[str]) -> list[str]:
        """The names of the files that are meant: ``*`` and ``?`` stand for any characters but '/'.

        The order is that of the patterns, and the alphabet within one. A file that an earlier entry has named
        is not taken again by a pattern.

        Raises:
            RequestError: a pattern that fits nothing, with the nearest names; a file that is not there.
        """
        names: list[str] = []
        for pattern in patterns:
            if "*" in pattern or "?" in pattern:
                found = self._glob(pattern)
                if not found:
                    raise RequestError(f"no annotation file fits {self.where(pattern)}", self._near(pattern))
                names += [n for n in found if n not in names]
            else:
                self.state(pattern)
                names.append(pattern)
        return names

    def state(self, name: str) -> tuple[int, str]:
        """Size in bytes and ETag or time of change of a file.

        Raises:
            RequestError: it is not there, with the nearest names, or it is not a file.
        """
        with self._reading(name):
            if not self._fs:
                stat = os.stat(self.where(name))
                if os.path.isdir(self.where(name)):
                    raise RequestError(f"cannot read {self.where(name)}: it is a folder", self._near(name))
                return stat.st_size, str(stat.st_mtime_ns)
            self._fs.invalidate_cache()
            info = self._fs.info(self.where(name))
            if info["type"] != "file":
                raise RequestError(f"cannot read {self.where(name)}: it is a folder", self._near(name))
            stamp = next((info[k] for k in ("ETag", "LastModified", "mtime", "created") if k in info), "")
            return int(info["size"]), str(stamp)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file, to be read from its beginning; what goes wrong while it is open is told in our terms.

        Raises:
            RequestError, ServiceError: it cannot be read.
        """
        with self._reading(name):
            where = self.where(name)
            with (
                self._fs.open(where, "rb", block_size=BLOCK_BYTES)
                if self._fs
                else open(where, "rb") as handle
            ):
                yield handle

    def _glob(self, pattern: str) -> list[str]:
        if not self._fs:
            found = glob.glob(pattern.replace("[", "[[]"), root_dir=self.root)
            return sorted(n for n in found if os.path.isfile(self.where(n)))
        with self._reading(pattern):
            self._fs.invalidate_cache()
            found = self._fs.glob(f"{self._base.rstrip('/')}/{pattern.replace('[', '[[]')}")
        names = [n.removeprefix(self._base.rstrip("/") + "/") for n in found]
        shown = (n for n in names if not n.rpartition("/")[2].startswith("."))
        return sorted(n for n in shown if self._fs.isfile(self.where(n)))

    def _near(self, name: str) -> str:
        """A sentence with the names of annotation files that are there; nothing where none can be listed."""
        suffixes = (".json", ".jsonl", ".ndjson", ".parquet")
        found: list[str] = []
        with contextlib.suppress(RaypipeError):
            for pattern in ("*", "*/*"):
                found += [n for n in self._glob(pattern) if n.endswith(suffixes)]
        return nearest(name, found) if found else ""

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        where = self.where(name)
        try:
            yield
        except RaypipeError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            raise RequestError(f"no such annotation file: {where}", self._near(name)) from None
        except OSError as fault:
            if self._fs:
                raise ServiceError(f"cannot read {where}: {_first_line(fault)}", CHECK) from fault
            raise RequestError(
                f"cannot read {where}: {fault.strerror or fault}", "see who may read it"
            ) from None
        except Exception as fault:
            if type(fault).__module__.partition(".")[0] in ("botocore", "aiobotocore", "aiohttp"):
                raise ServiceError(f"cannot read {where}: {_first_line(fault)}", CHECK) from fault
            raise


CHECK = "check the address, the credentials and the network, then run the same command again"


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0][:200]
