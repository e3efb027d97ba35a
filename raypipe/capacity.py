"""Whether a cluster can ever hold what a verb asks of it: nodes and needs in, a refusal out. No Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raypipe.cluster_files.types import NodeType
from raypipe.errors import RequestError

EPSILON = 1e-6
LARGER = "lower the number of workers or actors, or what each takes, or run on a larger cluster"


@dataclass(frozen=True)
class Machine:
    """``count`` equal nodes, at most; ``cpus`` and ``gpus`` of one, inf where nobody says.

    ``head``: it is there in any case, and no limit of nodes counts it.
    """

    name: str
    cpus: float
    gpus: float
    count: int = 1
    head: bool = False


@dataclass(frozen=True)
class Machines:
    """The nodes that are there, or, where nodes are added by need, all that there may ever be.

    Attributes:
        may_grow: nodes may be added that are not there now.
        known: False: nodes may be added, and nobody says which.
        most: nodes of all kinds together, beside the head.
    """

    all: tuple[Machine, ...]
    may_grow: bool = False
    known: bool = True
    most: float = math.inf

    @property
    def cpus(self) -> float:
        return self.sum_of(lambda m: m.cpus)

    @property
    def gpus(self) -> float:
        return self.sum_of(lambda m: m.gpus)

    def sum_of(self, value: Callable[[Machine], float]) -> float:
        """The largest sum over nodes that can be there at the same time."""
        total, left = 0.0, self.most
        for m in sorted(self.all, key=value, reverse=True):
            count = m.count if m.head else min(m.count, left)
            left -= 0 if m.head else count
            total += value(m) * count if count else 0.0
        return total


@dataclass(frozen=True)
class Need:
    """``count`` things of one kind (workers, actors, tasks), each of which must be on one node as a whole."""

    what: str
    count: int
    cpus: float = 0.0
    gpus: float = 0.0

    def on(self, machine: Machine) -> float:
        """How many of them one such node holds."""
        wanted = ((self.cpus, machine.cpus), (self.gpus, machine.gpus))
        return (
            min(
                (math.floor(have / want + EPSILON) if have < math.inf else math.inf)
                for want, have in wanted
                if want > 0
            )
            if self.cpus or self.gpus
            else math.inf
        )


def machines_of(types: Sequence[NodeType], limit: int | None = None) -> Machines:
    """The most that a cluster's file allows.

    Args:
        limit: workers of all types together.
    """

    def number(value: float | None) -> float:
        return math.inf if value is None else value

    found = []
    for kind in types:
        most = kind.max_nodes if kind.head or limit is None else min(kind.max_nodes, limit)
        found.append(Machine(kind.name, number(kind.cpus), number(kind.gpus), most, kind.head))
    return Machines(tuple(found), may_grow=True, most=math.inf if limit is None else limit)


def refuse_impossible(what: str, needs: Sequence[Need], machines: Machines) -> None:
    """Refuses what can never be scheduled, so that nothing waits for it for ever.

    What passes here may still have to wait for other work, or for nodes that are yet to be added.

    Raises:
        RequestError: with what is asked for and what there is.
    """
    if not machines.known:
        return
    most = " at most" if machines.may_grow else ""
    for name, wanted, have in (
        ("CPU", sum(n.count * n.cpus for n in needs), machines.cpus),
        ("GPU", sum(n.count * n.gpus for n in needs), machines.gpus),
    ):
        if wanted > have + EPSILON:
            raise RequestError(f"{what} needs {wanted:g} {name}s, the cluster has {have:g}{most}", LARGER)
    for need in needs:
        _refuse_unfit(what, need, machines, most)


def _refuse_unfit(what: str, need: Need, machines: Machines, most: str) -> None:
    fits = machines.sum_of(need.on)
    if fits >= need.count:
        return
    takes = " and ".join(
        f"{value:g} {name}s" for value, name in ((need.cpus, "CPU"), (need.gpus, "GPU")) if value
    )
    nodes = ", ".join(
        f"{m.count} x {m.name} ({m.cpus:g} CPUs, {m.gpus:g} GPUs)"
        for m in _merged(machines.all)[:4]
        if m.count
    )
    if machines.most < sum(m.count for m in machines.all if not m.head):
        nodes += f"; max_workers is {machines.most:g}"
    if not fits:
        said = f"no node holds one {need.what} of {what}: it takes {takes}; the cluster has{most} {nodes}"
    else:
        said = (
            f"{what} needs {need.count} times {takes}, each on one node; {fits:g} fit: "
            f"the cluster has{most} {nodes}"
        )
    raise RequestError(said, LARGER)


def _merged(machines: Sequence[Machine]) -> list[Machine]:
    """Equal nodes together, the largest first."""
    counts: dict[tuple[float, float], tuple[str, int]] = {}
    for m in machines:
        name, before = counts.get((m.cpus, m.gpus), (m.name, 0))
        counts[m.cpus, m.gpus] = (name, before + m.count)
    order = sorted(counts.items(), key=lambda item: (-item[0][1], -item[0][0]))
    return [Machine(name, cpus, gpus, count) for (cpus, gpus), (name, count) in order]
