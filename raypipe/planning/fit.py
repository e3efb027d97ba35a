"""Whether machines hold what a run asks for, on which of them it lies, and what is left beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from raypipe.planning.machines import Kind, Machines

WORKABLE = 1e-9  # shares of a CPU or GPU are added up in floating point


@dataclass(frozen=True)
class Ask:
    """So many processes of one size; with fewer than ``least`` the run cannot begin."""

    what: str
    count: int
    least: int
    cpus: float
    gpus: float

    def said(self) -> str:
        parts = [f"{self.cpus:g} CPU{'' if self.cpus == 1 else 's'}"] if self.cpus else []
        parts += [f"{self.gpus:g} GPU{'' if self.gpus == 1 else 's'}"] if self.gpus else []
        return " and ".join(parts) or "nothing"


@dataclass
class Used:
    """Nodes of one kind that a run takes."""

    kind: str
    nodes: int
    held: int
    cpus_left: float | None  # on each node, when it holds as many as it can


@dataclass
class Fit:
    """``held`` of the processes asked for have a place.

    Attributes:
        ok: at least as many as the run needs to begin.
        reason: why not, or what is short of what was asked.
        remedy: what to change.
        usd_per_hour: of the nodes used and the head; None where a price is not known.
    """

    ask: Ask
    held: int = 0
    ok: bool = False
    reason: str = ""
    remedy: str = ""
    used: list[Used] = field(default_factory=list)
    usd_per_hour: float | None = None
    unpriced: list[str] = field(default_factory=list)

    @property
    def nodes(self) -> int:
        return sum(used.nodes for used in self.used)

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "nodes": self.nodes}


def fit(ask: Ask, machines: Machines) -> Fit:
    """Lays processes onto nodes, onto the kind that holds most of them first."""
    found = Fit(ask)
    able = [(kind, per_node(ask, kind)) for kind in machines.kinds]
    able = sorted((pair for pair in able if pair[1]), key=lambda pair: -pair[1])
    if not able:
        found.reason = (
            f"no node of {machines.where} holds {ask.what} ({ask.said()}): {_sizes(machines.kinds)}"
        )
        found.remedy = "lower what each takes, or choose larger machines"
        return found
    for kind, each in able:
        wanted = min(kind.count, math.ceil((ask.count - found.held) / each))
        if wanted > 0:
            held = min(ask.count - found.held, wanted * each)
            left = None if kind.cpus is None else max(0.0, kind.cpus - min(each, held) * ask.cpus)
            found.used.append(Used(kind.name, wanted, held, left))
            found.held += held
    found.ok = found.held >= ask.least
    if found.held < ask.count:
        most = ", ".join(f"{kind.count} x {kind.name} with {each} each" for kind, each in able)
        found.reason = f"{ask.count} x {ask.what} ({ask.said()}), and there is room for {found.held}: {most}"
        found.remedy = "lower their number, or raise max_workers of the cluster"
    _price(found, machines)
    return found


def per_node(ask: Ask, kind: Kind) -> int:
    """How many a node of a kind holds."""
    rooms = [_on_gpus(ask.gpus, kind.gpus)] if ask.gpus else []
    if ask.cpus and kind.cpus is not None:
        rooms.append(math.floor(kind.cpus / ask.cpus + WORKABLE))
    return min(rooms, default=ask.count if kind.cpus != 0 else 0)


def _on_gpus(each: float, gpus: float) -> int:
    """A share of a GPU lies on one of them."""
    if each >= 1:
        return math.floor(gpus / each + WORKABLE)
    whole = math.floor(gpus + WORKABLE)
    return whole * math.floor(1 / each + WORKABLE) + math.floor((gpus - whole) / each + WORKABLE)


def _price(found: Fit, machines: Machines) -> None:
    """The head is paid for as long as the run lasts, whether it works or not."""
    nodes = {used.kind: used.nodes for used in found.used}
    for kind in machines.kinds:
        if kind.head:
            nodes.setdefault(kind.name, 1)
    kinds = {kind.name: kind for kind in machines.kinds}
    found.unpriced = [kinds[name].instance or name for name in nodes if kinds[name].usd_per_hour is None]
    if not found.unpriced:
        found.usd_per_hour = sum((kinds[name].usd_per_hour or 0.0) * count for name, count in nodes.items())


def _sizes(kinds: Sequence[Kind]) -> str:
    said = []
    for kind in kinds:
        cpus = "CPUs unknown" if kind.cpus is None else f"{kind.cpus:g} CPUs"
        said.append(f"{kind.name} has {cpus}, {kind.gpus:g} GPUs")
    return "; ".join(said)
