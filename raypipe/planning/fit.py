"""Whether machines hold what a run asks for, on which of them it lies, and what is left beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from raypipe.errors import RequestError
from raypipe.planning.machines import Kind, Machines

MOST = 1000  # processes of a node
MOST_ASKED = 100_000  # processes of a kind: each is laid onto its node on its own
WORKABLE = 1e-9  # shares of a CPU or GPU are added up in floating point


@dataclass(frozen=True)
class Ask:
    """So many processes of one size; with fewer than ``least`` the run cannot begin.

    ``later``: where there is no room beside the others, they can wait until those are done.
    """

    what: str
    count: int
    least: int
    cpus: float
    gpus: float
    later: bool = False

    def said(self) -> str:
        parts = [f"{self.cpus:g} CPU{'' if self.cpus == 1 else 's'}"] if self.cpus else []
        parts += [f"{self.gpus:g} GPU{'' if self.gpus == 1 else 's'}"] if self.gpus else []
        return " and ".join(parts) or "nothing"


@dataclass
class Used:
    """Nodes of one kind that processes lie on; ``cpus_left`` on the fullest of them, None: not known."""

    kind: str
    nodes: int
    held: int
    cpus_left: float | None


@dataclass
class Fit:
    """``held`` of the processes asked for have a place.

    Attributes:
        ok: at least as many as the run needs to begin.
        reason: why not, or what is short of what was asked.
        remedy: what to change.
    """

    ask: Ask
    held: int = 0
    ok: bool = False
    reason: str = ""
    remedy: str = ""
    used: list[Used] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return asdict(self)


class _Node:
    """One node with what is free on it; a share of a GPU lies on one of its GPUs."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.cpus = math.inf if kind.cpus is None else kind.cpus
        gpus = min(kind.gpus, MOST)
        whole = math.floor(gpus + WORKABLE)
        self.gpus = [1.0] * whole + ([gpus - whole] if gpus - whole > WORKABLE else [])

    def take(self, ask: Ask) -> bool:
        if ask.cpus > self.cpus + WORKABLE or (not ask.cpus and self.kind.cpus == 0 and not ask.gpus):
            return False
        if ask.gpus >= 1:
            free = [n for n, left in enumerate(self.gpus) if left > 1 - WORKABLE]
            if len(free) < ask.gpus:
                return False
            for n in free[: math.ceil(ask.gpus)]:
                self.gpus[n] = 0.0
        elif ask.gpus:
            place = next((n for n, left in enumerate(self.gpus) if left > ask.gpus - WORKABLE), None)
            if place is None:
                return False
            self.gpus[place] -= ask.gpus
        self.cpus -= ask.cpus
        return True


class Floor:
    """Nodes that fill up, one ask after the other."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._open: list[_Node] = []
        self._nodes: Counter[str] = Counter()
        self._workers = 0  # nodes beside the head

    def place(self, ask: Ask) -> Fit:
        """Lays processes onto nodes that have room left, then onto new ones, those that hold most first.

        What needs no GPU goes onto new nodes with GPUs last, as Ray's autoscaler does it.
        """
        found = Fit(ask)
        held: Counter[int] = Counter()
        able = [(kind, per_node(ask, kind)) for kind in self._machines.kinds if kind.count]
        able = [pair for pair in able if pair[1]]
        able.sort(key=lambda pair: (pair[0].gpus > 0 and not ask.gpus, -pair[1]))
        for number, node in enumerate(self._open):
            self._fill(node, number, found, held)
        for kind, _ in able:
            while found.held < ask.count and self._may_open(kind):
                self._begin(kind)
                self._fill(self._open[-1], len(self._open) - 1, found, held)
        found.used = self._used(held)
        found.ok = found.held >= ask.least
        self._say(found, able)
        return found

    def nodes(self) -> Counter[str]:
        """The nodes that are taken, by kind."""
        return Counter(self._nodes)

    def usd_per_hour(self) -> tuple[float | None, list[str]]:
        """Of the nodes taken and of the head, which costs the same when it is idle; and what has no price."""
        nodes = self.nodes()
        kinds = {kind.name: kind for kind in self._machines.kinds}
        for kind in kinds.values():
            if kind.head:
                nodes[kind.name] = max(1, nodes[kind.name])
        unpriced = [kinds[n].instance or n for n in nodes if kinds[n].usd_per_hour is None]
        if unpriced or not nodes:
            return None, unpriced
        return sum((kinds[n].usd_per_hour or 0.0) * count for n, count in nodes.items()), []

    def _may_open(self, kind: Kind) -> bool:
        if self._nodes[kind.name] >= kind.count:
            return False
        most = self._machines.most
        return kind.head or most is None or self._workers < most

    def _begin(self, kind: Kind) -> None:
        self._open.append(_Node(kind))
        self._nodes[kind.name] += 1
        self._workers += not kind.head

    @staticmethod
    def _fill(node: _Node, number: int, found: Fit, held: Counter[int]) -> None:
        while found.held < found.ask.count and node.take(found.ask):
            found.held += 1
            held[number] += 1

    def _used(self, held: Counter[int]) -> list[Used]:
        used: dict[str, Used] = {}
        for number, count in held.items():
            node = self._open[number]
            left = None if math.isinf(node.cpus) else node.cpus
            one = used.setdefault(node.kind.name, Used(node.kind.name, 0, 0, left))
            one.nodes, one.held = one.nodes + 1, one.held + count
            if left is not None and one.cpus_left is not None:
                one.cpus_left = min(one.cpus_left, left)
        return list(used.values())

    def _say(self, found: Fit, able: Sequence[tuple[Kind, int]]) -> None:
        """Why not all have a place."""
        ask, where = found.ask, self._machines.where
        closed = [kind.name for kind in self._machines.kinds if not kind.count and per_node(ask, kind)]
        if not able and closed:
            whose = "of all types together" if self._machines.most == 0 else f"of {closed[0]}"
            held = f"{' and '.join(closed)} of {where} would hold {ask.what} ({ask.said()})"
            found.reason = f"{held}, and no node of it may start"
            found.remedy = f"raise max_workers {whose} in {where} (KubeRay: maxReplicas)"
        elif not able:
            found.reason = (
                f"no node of {where} holds {ask.what} ({ask.said()}): {_sizes(self._machines.kinds)}"
            )
            found.remedy = "lower what each takes, or choose larger machines"
        elif found.held < ask.count:
            most = ", ".join(f"{kind.count} x {kind.name} with {each} each" for kind, each in able)
            limit = self._machines.most
            if limit is not None and limit < sum(kind.count for kind, _ in able if not kind.head):
                most += f"; max_workers is {limit}"
            beside = " beside the others" if self._open and not found.held else ""
            found.reason = (
                f"{ask.count} x {ask.what} ({ask.said()}), and there is room for {found.held}{beside}: {most}"
            )
            found.remedy = "lower their number, or what each takes; or run on a larger cluster"
            if not found.ok and ask.later:
                found.ok, found.reason = True, f"{ask.what} waits until there is room: {most}"


def placed(asks: Sequence[Ask], machines: Machines) -> tuple[list[Fit], Floor]:
    """Lays asks one after the other onto the same machines.

    Raises:
        RequestError: more of them than anybody counts.
    """
    for ask in asks:
        if ask.count > MOST_ASKED:
            raise RequestError(
                f"{ask.count:,} x {ask.what}: a plan counts at most {MOST_ASKED:,}",
                "ask for as many as there are",
            )
    floor = Floor(machines)
    return [floor.place(ask) for ask in asks], floor


def per_node(ask: Ask, kind: Kind) -> int:
    """How many an empty node of a kind holds, as far as anybody counts."""
    node, count = _Node(kind), 0
    while count < MOST and node.take(ask):
        count += 1
    return count


def _sizes(kinds: Sequence[Kind]) -> str:
    said = []
    for kind in kinds:
        cpus = "CPUs unknown" if kind.cpus is None else f"{kind.cpus:g} CPUs"
        said.append(f"{kind.name} has {cpus}, {kind.gpus:g} GPUs")
    return "; ".join(said)
