"""The machine as the checks see it: files, environment, limits, programs, sockets. Tests give another."""

from __future__ import annotations

import email.message
import email.utils
import http.client
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST = 1 << 20  # bytes of an answer or a file that are read
WAIT_S = 3.0  # for a program or an answer


@dataclass(frozen=True)
class Disk:
    """A file system: bytes and inodes; no inodes are counted where it has none (total 0)."""

    total: int
    free: int
    inodes: int
    inodes_free: int


@dataclass(frozen=True)
class Answer:
    """What an address answered: status, body (``cut``: its beginning), and the clock of the other side."""

    status: int
    body: str
    date: float | None
    cut: bool = False


class Host:
    """This machine. Every question is quick, changes nothing and answers None where it cannot."""

    def __init__(self) -> None:
        self.environ: Mapping[str, str] = os.environ

    def python(self) -> tuple[tuple[int, int], str]:
        """The version of this Python, and what it is called."""
        return sys.version_info[:2], f"{platform.python_version()} in {sys.prefix}"

    def home(self) -> str:
        return os.path.expanduser("~")

    def here(self) -> str:
        return os.getcwd()

    def read(self, path: str) -> str | None:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read(MOST)
        except OSError:
            return None

    def mode(self, path: str) -> int | None:
        """The permission bits; None: there is no such file."""
        try:
            return stat.S_IMODE(os.stat(path).st_mode)
        except OSError:
            return None

    def plain(self, path: str) -> bool:
        """Whether there is a plain file: no folder, pipe or device."""
        return os.path.isfile(path)

    def disk(self, path: str) -> Disk | None:
        """The file system of a folder, or of the nearest one above it that is there."""
        place = Path(path).absolute()
        for folder in (place, *place.parents):
            try:
                found = os.statvfs(folder)
            except OSError:
                continue
            size = found.f_frsize
            return Disk(found.f_blocks * size, found.f_bavail * size, found.f_files, found.f_favail)
        return None

    def writable(self, path: str) -> bool:
        """Whether a folder, or the nearest above it that is there, lets this user make files."""
        place = Path(path).absolute()
        found = next((folder for folder in (place, *place.parents) if folder.exists()), None)
        return found is not None and found.is_dir() and os.access(found, os.W_OK | os.X_OK)

    def sizes(self, folder: str, prefix: str, most: int = 20_000) -> dict[str, int]:
        """Folders of a folder with this prefix, and the bytes below each, counted over so many files."""
        sizes: dict[str, int] = {}
        seen = 0
        for name in sorted(self._names(folder)):
            place = os.path.join(folder, name)
            if not name.startswith(prefix) or os.path.islink(place):
                continue
            sizes[name] = 0
            for above, _, files in os.walk(place):
                for file in files:
                    seen += 1
                    if seen > most:
                        return sizes
                    try:
                        sizes[name] += os.lstat(os.path.join(above, file)).st_blocks * 512
                    except OSError:
                        continue
        return sizes

    def _names(self, folder: str) -> list[str]:
        try:
            return os.listdir(folder)
        except OSError:
            return []

    def cpus(self) -> int:
        """Cores that this process may use, as its affinity says."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def memory(self) -> int:
        """Bytes of memory of the machine itself."""
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def limit(self, name: str) -> int | None:
        """A soft limit of this process (NOFILE, NPROC, AS); None: without a limit."""
        import resource

        soft, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        return None if soft == resource.RLIM_INFINITY else soft

    def encodings(self) -> tuple[str, str]:
        """Of file names, and of what is printed."""
        return sys.getfilesystemencoding(), getattr(sys.stdout, "encoding", None) or "utf-8"

    def now(self) -> float:
        return time.time()

    def which(self, program: str) -> str | None:
        return shutil.which(program)

    def run(self, command: Sequence[str]) -> str | None:
        """What a program prints; None where it fails or takes too long."""
        try:
            done = subprocess.run(list(command), capture_output=True, text=True, timeout=WAIT_S, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

    def version(self, package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def requires(self, package: str) -> list[str] | None:
        """What a package asks for; None: it is not installed."""
        try:
            return importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            return None

    def givers(self, modules: Sequence[str]) -> dict[str, list[str]]:
        """Module -> the installed packages that bring it."""
        found = importlib.metadata.packages_distributions()
        return {module: sorted(set(found.get(module, []))) for module in modules}

    def module_file(self, module: str, file: str) -> str | None:
        """The text of a file inside a module's folder; the module is not imported."""
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            return None
        return self.read(os.path.join(next(iter(spec.submodule_search_locations)), file))

    def listens(self, port: int, host: str = "127.0.0.1") -> bool:
        """Whether somebody takes connections at a port."""
        try:
            with socket.create_connection((host, port), timeout=1.0):
                return True
        except OSError:
            return False

    def fetch(self, url: str, headers: Mapping[str, str] | None = None, most: int = MOST) -> Answer | None:
        """A GET without proxies and redirects, of so many bytes; None where nobody answers."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())
        try:
            request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - http(s) only
            if request.type not in ("http", "https"):
                return None
            with opener.open(request, timeout=WAIT_S) as answer:
                held = answer.read(most + 1)
                body = held[:most].decode(errors="replace")
                return Answer(answer.status, body, _date(answer.headers), cut=len(held) > most)
        except urllib.error.HTTPError as refused:
            return Answer(refused.code, "", _date(refused.headers))
        except (OSError, ValueError, http.client.HTTPException):  # the last: it speaks no HTTP
            return None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a key would go along."""

    def redirect_request(self, *_: object) -> None:
        return None


def _date(headers: email.message.Message) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(str(headers["Date"])).timestamp()
    except (TypeError, ValueError):
        return None
