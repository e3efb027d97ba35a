"""This machine, as far as prepare needs it. Every check is quick and changes nothing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from raypipe.errors import RaypipeError
from raypipe.media import decoders
from raypipe.media.decode import DecodeRequest
from raypipe.media.sandbox import Sandbox
from raypipe.records import MediumKind, Rejection
from raypipe.settings import DecodeLimits, Rendition, Sampling, local
from raypipe.store.files import Store

GIB = 1 << 30
SHARED = "/dev/shm"  # noqa: S108 - looked at, never written


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, and what to do where it is not well."""

    check: str
    level: Level
    found: str
    fix: str = ""

    def row(self) -> dict[str, str]:
        return {**asdict(self), "level": str(self.level)}


def check_machine() -> list[Finding]:
    """Everything but the store, in the order in which it is shown."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "python": _python,
        "packages": _packages,
        "CPUs": _cpus,
        "decoders": _decoders,
        "decode child": _child,
        "disk": _disk,
        "shared memory": _shared_memory,
        "Ray token": _token,
    }
    return [finding for name, check in checks.items() for finding in _guarded(name, check)]


def check_store(address: str) -> list[Finding]:
    """Whether a store can be written, and lets only one of two writers make a name; leaves nothing."""
    return list(_guarded("store", lambda: _store(address)))


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that breaks is a finding: whoever asks the doctor is to hear of the others too."""
    try:
        yield from check()
    except Exception as fault:
        first = (str(fault).strip().splitlines() or [""])[0][:200]
        yield Finding(name, Level.FAIL, f"{type(fault).__name__}: {first}", getattr(fault, "remedy", ""))


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} in {sys.prefix}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield Finding("python", Level.OK, found)
    else:
        yield Finding("python", Level.FAIL, found, "use Python 3.11 or 3.12")


def _packages() -> Iterator[Finding]:
    try:
        wanted = [Requirement(r) for r in importlib.metadata.requires("raypipe") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", Level.WARN, "raypipe itself is not installed", "make setup")
        return
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    pins, wrong, other = _pins(), [], []
    for need in wanted:
        have = _version(need.name)
        if have is None or not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{need.name} {have or 'is not there'} (needs {need.specifier or 'any'})")
        elif need.name in pins and Version(have).public != pins[need.name]:
            other.append(f"{need.name} {have} (tested: {pins[need.name]})")
    install = "install what constraints.txt names: make setup"
    if wrong:
        yield Finding("packages", Level.FAIL, ", ".join(wrong), install)
    if other:
        yield Finding("packages", Level.WARN, ", ".join(other), install)
    if not wrong and not other:
        what = "at the tested versions" if pins else "in range; no constraints.txt to compare with"
        yield Finding("packages", Level.OK, f"{len(wanted)} {what}")


def _pins() -> dict[str, str]:
    file = Path(__file__).parents[2] / "constraints.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return dict(line.split("==") for line in lines if line.count("==") == 1 and not line.startswith("#"))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpus() -> Iterator[Finding]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    few = count < 2
    yield Finding(
        "CPUs",
        Level.WARN if few else Level.OK,
        f"{count} for this process",
        "two or more: one decodes while another writes" if few else "",
    )


def _decoders() -> Iterator[Finding]:
    have = decoders.present()
    lacking = [kind for kind, there in have.items() if not there]
    version = importlib.metadata.version("av")
    if lacking:
        found = f"PyAV {version} lacks {', '.join(lacking)}"
        yield Finding(
            "decoders", Level.FAIL, found, "install PyAV's own wheel: pip install --force-reinstall av"
        )
    else:
        yield Finding("decoders", Level.OK, f"PyAV {version}: {', '.join(have)}")


def _child() -> Iterator[Finding]:
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="raypipe-doctor-") as folder:
        first, *rest = [Image.new("RGB", (32, 24), (40 * n, 90, 200)) for n in range(4)]
        first.save(f"{folder}/clip.gif", save_all=True, append_images=rest, duration=100)
        request = DecodeRequest(
            key="doctor",
            kind=MediumKind.VIDEO,
            root=folder,
            path="clip.gif",
            sampling=Sampling(frames=4),
            rendition=Rendition(short_side=24),
        )
        with Sandbox(DecodeLimits(timeout_s=8, tries=1)) as sandbox:
            medium = sandbox.decode(request)
    if isinstance(medium, Rejection):
        fix = "see that a child process may start and take memory (ulimit -v, seccomp, cgroup limits)"
        yield Finding("decode child", Level.FAIL, f"{medium.reason}: {medium.detail}", fix)
    else:
        yield Finding(
            "decode child", Level.OK, f"starts and decodes a drawn clip: {len(medium.frames)} frames"
        )


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free
    found = f"{free / GIB:.1f} GiB free in {os.getcwd()}"
    level = Level.FAIL if free < GIB else Level.WARN if free < 20 * GIB else Level.OK
    yield Finding("disk", level, found, "" if level is Level.OK else "free space, or name another out=")


def _shared_memory() -> Iterator[Finding]:
    if not os.path.isdir(SHARED):
        yield Finding(
            "shared memory", Level.WARN, "no /dev/shm", "Ray will use files in /tmp, which is slower"
        )
        return
    usage = shutil.disk_usage(SHARED)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    low = usage.free < 0.3 * memory
    found = f"{usage.free / GIB:.1f} GiB free in /dev/shm, {memory / GIB:.1f} GiB of memory"
    fix = "give a container more: --shm-size, about a third of the memory; Ray uses /tmp otherwise"
    yield Finding("shared memory", Level.WARN if low else Level.OK, found, fix if low else "")


def _token() -> Iterator[Finding]:
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not file.exists():
        yield Finding("Ray token", Level.OK, f"none yet; raypipe makes {file}, closed to others")
        return
    mode = stat.S_IMODE(file.stat().st_mode)
    open_to_others = bool(mode & 0o077)
    yield Finding(
        "Ray token",
        Level.FAIL if open_to_others else Level.OK,
        f"{file} has mode {mode:04o}",
        f"chmod 600 {file}: whoever reads it can run code on your cluster" if open_to_others else "",
    )


def _store(address: str) -> Iterator[Finding]:
    new = _new_folders(address)
    store, name = Store(address), f"doctor-{uuid.uuid4().hex}"
    try:
        created = store.put_new(name, b"first")
        again = store.put_new(name, b"second")
        kept = store.read(name)
    finally:
        with contextlib.suppress(OSError, RaypipeError):
            store.delete(name)
        for folder in new:
            with contextlib.suppress(OSError):  # not made, or somebody has put something into it
                folder.rmdir()
    if created and not again and kept == b"first":
        yield Finding("store", Level.OK, f"{store.root} is written, and creates a name only once")
    else:
        found = f"{store.root} lets a second writer replace what the first made"
        fix = "use a store with conditional writes (If-None-Match), or a local disk: two runs could mix"
        yield Finding("store", Level.FAIL, found, fix)


def _new_folders(address: str) -> list[Path]:
    """The folders that writing there would make, innermost first."""
    path = Path(local(address))
    return [] if "://" in address else [p for p in (path, *path.parents) if not p.exists()]
