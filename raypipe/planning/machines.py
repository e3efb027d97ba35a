"""The machines that a run could get: of a cluster's file, of the cluster that runs, or this one."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from raypipe import capacity
from raypipe.cluster_files.read import read_cluster
from raypipe.errors import RequestError, nearest
from raypipe.planning.prices import PriceFile
from raypipe.train.flops import PEAKS

GIB = 1 << 30
BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # what `ray up` puts on the head of a cluster that grows


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU: the memory that its driver shows [bytes], and its dense bf16 peak [FLOP/s]."""

    name: str
    bytes: int
    peak: float | None


GPUS = {
    name: Gpu(name, round(gib * GIB), PEAKS.get(peak))
    for name, gib, peak in (
        ("A100-40GB", 40.0, "A100"),
        ("A100-80GB", 80.0, "A100"),
        ("H100", 79.6, "H100"),
        ("H200", 140.4, "H200"),
        ("B200", 179.0, "B200"),
        ("L40S", 45.0, "L40S"),
        ("L4", 22.5, "L4"),
    )
}


@dataclass(frozen=True)
class Kind:
    """Machines of one kind.

    Attributes:
        count: nodes there are at most.
        there: nodes that are there without anything being started.
        cpus, gpus: what a node offers to Ray; None where it is not known before it runs.
        usd_per_hour: of one node; None where no price is known.
    """

    name: str
    count: int
    there: int
    cpus: float | None
    gpus: float
    memory_bytes: int | None = None
    gpu: Gpu | None = None
    instance: str | None = None
    usd_per_hour: float | None = None
    spot: bool = False
    head: bool = False


@dataclass(frozen=True)
class Machines:
    """What there is to run on; ``where`` names it for people.

    ``most``: nodes of all kinds together, beside the head; None: as many as the kinds have.
    """

    where: str
    kinds: tuple[Kind, ...]
    most: int | None = None

    def row(self) -> dict[str, Any]:
        return {"where": self.where, "kinds": [asdict(kind) for kind in self.kinds], "most": self.most}

    def at_most(self) -> capacity.Machines:
        """The same nodes where only their CPUs and GPUs count."""
        nodes = tuple(
            capacity.Machine(
                kind.name, math.inf if kind.cpus is None else kind.cpus, kind.gpus, kind.count, kind.head
            )
            for kind in self.kinds
        )
        return capacity.Machines(nodes, most=math.inf if self.most is None else self.most)

    def gpu(self) -> Gpu | None:
        """The GPU of the machines that have one, the smallest where they differ."""
        found = [kind.gpu for kind in self.kinds if kind.gpus and kind.gpu is not None]
        return min(found, key=lambda gpu: gpu.bytes, default=None)


def machines(cluster: str | None, prices: PriceFile) -> Machines:
    """Of the cluster's file, else of the cluster that RAY_ADDRESS names, else of this machine.

    Raises:
        RequestError: the file is none of a cluster, or RAY_ADDRESS is that of a job server.
        ServiceError: the cluster does not answer.
    """
    if cluster is not None:
        return of_file(cluster, prices)
    named = os.environ.get("RAY_ADDRESS", "")
    if not named:
        return of_here()
    if os.path.exists(grown := os.path.expanduser(BOOTSTRAP)):  # on its head: nodes may still be added
        return of_file(grown, prices)
    if named.startswith(("http://", "https://")):
        raise RequestError(
            f"RAY_ADDRESS={named} is where jobs are submitted; what the cluster may have it does not tell",
            "name the cluster's file: cluster=cluster.yaml, or unset RAY_ADDRESS to plan for this machine",
        )
    return of_running()


def of_file(path: str, prices: PriceFile) -> Machines:
    """Of a file of `ray up` or KubeRay.

    Raises:
        RequestError: it is neither, it holds no machines, or a number of them that cannot be.
    """
    kinds, file = [], read_cluster(path)
    for node in file.node_types:
        if not 0 <= node.min_nodes <= node.max_nodes and not node.head:
            raise RequestError(
                f"{path}: at least {node.min_nodes} and at most {node.max_nodes} nodes of {node.name}",
                f"correct min_workers and max_workers; raypipe cluster check {path} shows the lines",
            )
        known = prices.machine(node.instance)
        gpus = node.gpus if node.gpus is not None else float(known.gpus) if known else 0.0
        cpus = node.cpus if node.cpus is not None else known.cpus if known else None
        memory = node.memory_bytes
        if memory is None and known is not None and known.memory_gib is not None:
            memory = round(known.memory_gib * GIB)
        kinds.append(
            Kind(
                name=node.name,
                count=max(node.max_nodes, 1) if node.head else node.max_nodes,
                there=1 if node.head else node.min_nodes,
                cpus=cpus,
                gpus=gpus,
                memory_bytes=memory,
                gpu=gpu_named(known.gpu) if known and known.gpu and gpus else None,
                instance=node.instance,
                usd_per_hour=known.usd_per_hour if known else None,
                spot=node.spot,
                head=node.head,
            )
        )
    if not kinds:
        raise RequestError(f"{path} names no machines", "give the file of the cluster itself")
    return Machines(path, tuple(kinds), file.most_workers)


def gpu_named(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        RequestError: there is none of that name.
    """
    if name not in GPUS:
        raise RequestError(f"no GPU is known as '{name}'", nearest(name, GPUS, shown=10))
    return GPUS[name]


def of_here() -> Machines:
    """This machine alone, as Ray would start on it."""
    cpus = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    found = local_gpus()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kind = Kind("this machine", 1, 1, cpus, float(len(found)), memory, found[0] if found else None, head=True)
    return Machines("this machine", (kind,))


def of_running() -> Machines:
    """The nodes of the cluster that RAY_ADDRESS names, as Ray counts them.

    Raises:
        ServiceError: it does not answer.
    """
    from raypipe.cluster import connected

    with connected(quiet=True):
        import ray

        shapes: Counter[tuple[float, float, str]] = Counter()
        for node in ray.nodes():
            if node.get("Alive"):
                has = node.get("Resources", {})
                marks = [name for name in has if name.startswith("accelerator_type:")]
                shapes[has.get("CPU", 0.0), has.get("GPU", 0.0), "".join(marks[:1])] += 1
    kinds = []
    for (cpus, gpus, mark), count in sorted(shapes.items(), reverse=True):
        name = mark.removeprefix("accelerator_type:") or ("GPU" if gpus else "CPU")
        kinds.append(Kind(f"{name} node", count, count, cpus, gpus, gpu=_of_ray(name)))
    return Machines(f"the cluster at {os.environ['RAY_ADDRESS']}", tuple(kinds))


def _of_ray(name: str) -> Gpu | None:
    """Ray calls the larger A100 A100-80G."""
    names = {"A100-80G": "A100-80GB", "A100-40G": "A100-40GB", "A100": "A100-40GB"}
    return GPUS.get(names.get(name, name))


def local_gpus() -> list[Gpu]:
    """The GPUs of this machine by nvidia-smi; none where there is no such program or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in done.stdout.splitlines():
        name, _, mib = line.rpartition(",")
        if mib.strip().isdecimal():
            plain = name.strip().removeprefix("NVIDIA ")
            peak = next((peak for start, peak in PEAKS.items() if plain.startswith(start)), None)
            found.append(Gpu(plain, int(mib) << 20, peak))
    return found
