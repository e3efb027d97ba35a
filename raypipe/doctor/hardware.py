"""Checks of the machine itself: GPUs, CPUs, memory, disks, limits, clock; a container's limits count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from raypipe.doctor.checks import Asked, Check, Finding, fail, ok, warn
from raypipe.doctor.host import Host

GIB = 1 << 30
SHARED = "/dev/shm"  # noqa: S108 - looked at, never written
DOCKER_SHM = 64 << 20  # bytes: what docker gives where it is asked for nothing
LEAST_INODES, LOW_INODES = 10_000, 200_000
LEAST_FILES, GOOD_FILES = 1024, 8192
LEAST_PROCESSES = 2048
GPU_CPUS = 4  # for each GPU: its worker's threads decode
QUERY = ("name", "memory.total", "memory.used", "driver_version", "compute_cap")


class Card(NamedTuple):
    """One GPU as nvidia-smi shows it; memory in bytes."""

    name: str
    total: int
    used: int
    driver: str
    capability: float


def gpus_of(host: Host) -> list[Card]:
    """The GPUs of a machine; none where nvidia-smi is not there or fails."""
    program = host.which("nvidia-smi")
    said = (
        host.run([program, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"])
        if program
        else ""
    )
    cards = []
    for line in (said or "").splitlines():
        fields = [part.strip() for part in line.split(",")]
        if len(fields) == len(QUERY) and fields[1].isdecimal():
            used = int(fields[2]) if fields[2].isdecimal() else 0
            cards.append(
                Card(fields[0], int(fields[1]) << 20, used << 20, fields[3], _number(fields[4]) or 0.0)
            )
    return cards


def gpu(host: Host, _: Asked) -> Iterator[Finding]:
    """None is fine; a card whose driver does not answer is not."""
    cards = gpus_of(host)
    hidden = host.environ.get("CUDA_VISIBLE_DEVICES")
    if cards and hidden is not None and hidden.strip() in ("", "-1"):
        yield warn(
            "GPU", f"CUDA_VISIBLE_DEVICES='{hidden}' hides {_cards(cards)}", "unset CUDA_VISIBLE_DEVICES"
        )
    elif cards:
        yield ok("GPU", _cards(cards))
    elif host.mode("/dev/nvidiactl") is not None or host.which("nvidia-smi"):
        yield fail(
            "GPU",
            "an NVIDIA device or its tools are here, and nvidia-smi shows no GPU",
            "install or reload the driver (nvidia-smi says what is wrong); in a container: --gpus all",
        )
    else:
        yield ok("GPU", "none: everything runs on CPUs, slowly for models of a real size")


def gpu_kind(host: Host, _: Asked) -> Iterator[Finding]:
    """bf16 products want compute capability 8.0, Ampere."""
    cards = gpus_of(host)
    old = [card for card in cards if card.capability < 8.0]
    if old:
        yield warn(
            "bf16",
            f"{old[0].name} has compute capability {old[0].capability:g}: bf16 is emulated there",
            "set precision=fp32, or use a GPU of Ampere (A100) or newer",
        )
    elif cards:
        yield ok("bf16", f"compute capability {min(c.capability for c in cards):g}")
    if len({card.name for card in cards}) > 1:
        names = ", ".join(sorted({card.name for card in cards}))
        yield warn(
            "bf16", f"GPUs of several kinds: {names}", "the slowest sets the pace: use one kind for a run"
        )


def gpu_free(host: Host, _: Asked) -> Iterator[Finding]:
    busy = [card for card in gpus_of(host) if card.used > 0.1 * card.total]
    if busy:
        used = ", ".join(f"{c.used / GIB:.1f} of {c.total / GIB:.1f} GiB" for c in busy)
        yield warn("GPU memory", f"in use: {used}", "nvidia-smi names the processes: end what is left over")
    elif gpus_of(host):
        yield ok("GPU memory", "free")


def cpus(host: Host, _: Asked) -> Iterator[Finding]:
    """Too few CPUs are no error to Ray: a pipeline whose steps cannot all have one waits for ever."""
    count, quota = host.cpus(), cpu_quota(host)
    usable = count if quota is None else min(float(count), quota)
    found = f"{usable:g} for this process"
    if quota is not None and quota < count:
        found += f": a cgroup allows {quota:g} of {count}"
    cards = len(gpus_of(host))
    if quota is not None and quota < count and quota < 0.75 * count:
        fix = "Ray counts all cores: start it with ray start --num-cpus, or raise the container's --cpus"
        yield warn("CPUs", found, fix)
    elif usable < 2:
        yield warn(
            "CPUs", found, "two or more: one decodes while another writes; with one, jobs can wait for ever"
        )
    elif usable < GPU_CPUS * cards:
        yield warn(
            "CPUs", f"{found} and {cards} GPUs", f"{GPU_CPUS} or more for each GPU: they decode and feed it"
        )
    else:
        yield ok("CPUs", found)


def memory(host: Host, _: Asked) -> Iterator[Finding]:
    whole, limit = host.memory(), memory_limit(host)
    usable = whole if limit is None else min(whole, limit)
    found = f"{usable / GIB:.1f} GiB"
    if limit is not None and limit < whole:
        found += f": a cgroup allows that of {whole / GIB:.1f} GiB"
    most = host.limit("AS")
    if most is not None and most < 8 * GIB:
        fix = "ulimit -v unlimited: Ray and decoders reserve more addresses than they use"
        yield fail("memory", f"ulimit -v allows {most / GIB:.1f} GiB of addresses", fix)
    elif usable < 4 * GIB:
        yield fail(
            "memory", found, "4 GiB at the least: Ray alone takes one, a decode child up to limits.memory_mib"
        )
    elif usable < 8 * GIB:
        yield warn("memory", found, "8 GiB or more; with less, lower concurrency and limits.memory_mib")
    else:
        yield ok("memory", found)


def shared_memory(host: Host, _: Asked) -> Iterator[Finding]:
    disk = host.disk(SHARED) if host.mode(SHARED) is not None else None
    if disk is None:
        yield warn("shared memory", "no /dev/shm", "Ray will use files in /tmp, which is slower")
        return
    limit = memory_limit(host)
    whole = host.memory() if limit is None else min(host.memory(), limit)
    found = f"{disk.free / GIB:.1f} GiB free in /dev/shm, {whole / GIB:.1f} GiB of memory"
    fix = "give a container more: --shm-size, about a third of the memory; Ray uses /tmp otherwise"
    if disk.total <= DOCKER_SHM:
        yield fail(
            "shared memory", f"{SHARED} has {disk.total >> 20} MiB, docker's default: NCCL fails with it", fix
        )
    elif disk.free < 0.3 * whole:
        yield warn("shared memory", found, fix)
    else:
        yield ok("shared memory", found)


def work_disk(host: Host, _: Asked) -> Iterator[Finding]:
    yield from _disk("disk", host, host.here(), 1, 20, "free space, or name another out=")


def home_disk(host: Host, _: Asked) -> Iterator[Finding]:
    cache = host.environ.get("RAYPIPE_CACHE") or f"{host.home()}/.cache/raypipe"
    fix = "free space, or put the cache elsewhere: export RAYPIPE_CACHE=<folder>"
    if not host.writable(cache):
        yield fail(
            "cache", f"{cache} cannot be written", "export RAYPIPE_CACHE=<a folder that you may write>"
        )
    else:
        yield from _disk("cache", host, cache, 1, 10, fix)


def temporary_disk(host: Host, _: Asked) -> Iterator[Finding]:
    folder = host.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - looked at
    if not host.writable(folder):
        yield fail(
            "temporary files", f"{folder} cannot be written", "export TMPDIR=<a folder that you may write>"
        )
    else:
        yield from _disk("temporary files", host, folder, 1, 5, "free space, or export TMPDIR=<folder>")


def ray_disk(host: Host, _: Asked) -> Iterator[Finding]:
    """Ray puts sessions and what it spills below its own folder; over 95 % full it refuses to."""
    folder = ray_folder(host)
    disk = host.disk(folder)
    fix = "free space, or give Ray another folder: export RAY_TMPDIR=<folder>"
    if disk is not None and disk.total and disk.free < 0.05 * disk.total:
        used = 100 * (1 - disk.free / disk.total)
        yield fail("Ray's disk", f"{folder} is {used:.0f} % full: Ray spills nothing over 95 %", fix)
    else:
        yield from _disk("Ray's disk", host, folder, 1, 10, fix)


def inodes(host: Host, _: Asked) -> Iterator[Finding]:
    short = []
    for folder in dict.fromkeys((host.here(), host.home(), ray_folder(host))):
        disk = host.disk(folder)
        if disk is not None and disk.inodes and disk.inodes_free < LOW_INODES:
            short.append((disk.inodes_free, folder))
    if not short:
        yield ok("inodes", "enough for many small files")
        return
    free, folder = min(short)
    found, fix = (
        f"{free:,} left in {folder}",
        "remove small files there (caches, old sessions): df -i shows where",
    )
    yield fail("inodes", found, fix) if free < LEAST_INODES else warn("inodes", found, fix)


def open_files(host: Host, _: Asked) -> Iterator[Finding]:
    most = host.limit("NOFILE")
    fix = "ulimit -n 65536 before Ray starts; in a container: --ulimit nofile=65536:65536"
    if most is None or most >= GOOD_FILES:
        yield ok("open files", "no limit" if most is None else f"{most:,} at a time")
    elif most < LEAST_FILES:
        yield fail("open files", f"{most:,} at a time", fix)
    else:
        yield warn("open files", f"{most:,} at a time: Ray opens one for each connection", fix)


def processes(host: Host, _: Asked) -> Iterator[Finding]:
    """Of this user and of the container: threads count, and Ray and torch start many."""
    group = _number(host.read("/sys/fs/cgroup/pids.max"))
    limits = [n for n in (host.limit("NPROC"), None if group is None else int(group)) if n is not None]
    most = min(limits, default=None)
    if most is not None and most < LEAST_PROCESSES:
        fix = "ulimit -u 65536; in a container: --pids-limit=-1"
        yield fail("processes", f"{most:,} processes and threads at a time", fix)
    else:
        yield ok("processes", "no limit" if most is None else f"{most:,} at a time")


def clock(host: Host, _: Asked) -> Iterator[Finding]:
    """A clock before our own files is wrong: leases, tokens and signed requests go by it."""
    built = Path(__file__).stat().st_mtime
    now = host.now()
    if now < built - 86_400 or now > built + 20 * 365 * 86_400:
        year = 1970 + now / 31_556_952
        yield fail(
            "clock",
            f"it says {year:.0f}, and raypipe's files are of {1970 + built / 31_556_952:.0f}",
            "set the clock (timedatectl set-ntp true): S3 refuses requests that are 15 minutes off",
        )
    else:
        yield ok("clock", "plausible")


def cpu_quota(host: Host) -> float | None:
    """CPUs that a cgroup allows, of version 2 or 1; None: no limit."""
    words = (host.read("/sys/fs/cgroup/cpu.max") or "").split()
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal():
        return int(words[0]) / int(words[1])
    quota = _number(host.read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
    period = _number(host.read("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    return quota / period if quota and period and quota > 0 else None


def memory_limit(host: Host) -> int | None:
    """Bytes that a cgroup allows, of version 2 or 1; None: no limit."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _number(host.read(file))
        if limit is not None:
            return int(limit) if limit < 1 << 60 else None  # version 1 says "none" by a huge number
    return None


def ray_folder(host: Host) -> str:
    """Where Ray keeps its sessions unless ``ray start --temp-dir`` says otherwise."""
    above = host.environ.get("RAY_TMPDIR") or host.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - as Ray does
    return f"{above.rstrip('/')}/ray"


def _disk(name: str, host: Host, folder: str, least: float, good: float, fix: str) -> Iterator[Finding]:
    """GiB that must, and that should, be free."""
    disk = host.disk(folder)
    if disk is None:
        yield fail(name, f"{folder} cannot be looked at", fix)
        return
    found = f"{disk.free / GIB:.1f} GiB free in {folder}"
    if disk.free < least * GIB:
        yield fail(name, found, fix)
    elif disk.free < good * GIB:
        yield warn(name, found, fix)
    else:
        yield ok(name, found)


def _cards(cards: list[Card]) -> str:
    first = cards[0]
    return f"{len(cards)} x {first.name}, {first.total / GIB:.0f} GiB, driver {first.driver}"


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").strip())
    except ValueError:
        return None


CHECKS = (
    Check("GPU", gpu),
    Check("bf16", gpu_kind),
    Check("GPU memory", gpu_free),
    Check("CPUs", cpus),
    Check("memory", memory),
    Check("shared memory", shared_memory),
    Check("disk", work_disk),
    Check("cache", home_disk),
    Check("temporary files", temporary_disk),
    Check("Ray's disk", ray_disk),
    Check("inodes", inodes),
    Check("open files", open_files),
    Check("processes", processes),
    Check("clock", clock),
)
