"""What a run is planned for: the machines it could get, their prices, and what is assumed of their speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raypipe.errors import RequestError
from raypipe.planning.fit import Fit, Floor
from raypipe.planning.machines import GIB, Gpu, Machines, gpu_named, machines
from raypipe.planning.prices import PriceFile, read_prices
from raypipe.planning.text import Line, hours, some, usd

MFU = 0.35  # of a GPU's peak: what is assumed where no other figure is given


@dataclass(frozen=True)
class Room:
    """Machines, prices and assumptions of a plan.

    Attributes:
        gpu: what a process is held against; None where none is there or named.
        mfu: the share of the peak that is assumed to be reached.
    """

    machines: Machines
    prices: PriceFile
    gpu: Gpu | None
    mfu: float
    mfu_given: bool


def room_of(options: dict[str, str | None]) -> Room:
    """The room that options of the command line describe.

    Args:
        options: ``cluster``, ``prices``, ``gpu``, ``gpu_gib``, ``mfu``; None where one is not given.

    Raises:
        RequestError: a file or a value that is none of its kind.
        ServiceError: the cluster that RAY_ADDRESS names does not answer.
    """
    prices = read_prices(options["prices"])
    found = machines(options["cluster"], prices)
    gpu = found.gpu()
    if options["gpu"] is not None:
        gpu = gpu_named(options["gpu"])
    if options["gpu_gib"] is not None:
        size = round(_number("gpu_gib", options["gpu_gib"], 1, 10_000) * GIB)
        gpu = (
            replace(gpu, bytes=size)
            if gpu is not None
            else Gpu(f"a GPU of {options['gpu_gib']} GiB", size, None)
        )
    mfu = MFU if options["mfu"] is None else _number("mfu", options["mfu"], 0.001, 1)
    return Room(found, prices, gpu, mfu, options["mfu"] is not None)


def refusal(fits: Sequence[Fit]) -> RequestError | None:
    """Of the first that can never begin."""
    bad = next((f for f in fits if not f.ok), None)
    return None if bad is None else RequestError(f"it can never be scheduled: {bad.reason}", bad.remedy)


def place_lines(fits: Sequence[Fit], room: Room) -> list[Line]:
    """Where the processes lie."""
    lines: list[Line] = []
    instances = {kind.name: kind.instance for kind in room.machines.kinds}
    for found in fits:
        ask = found.ask
        said = f"{ask.count} x {ask.what} of {ask.said()}"
        if not found.ok:
            lines.append(("needs", f"{said}: CANNOT be scheduled: {found.reason}"))
            continue
        where = []
        for used in found.used:
            named = f" ({instances[used.kind]})" if instances.get(used.kind) else ""
            left = "" if used.cpus_left is None else f", {used.cpus_left:g} CPUs of each left for other work"
            where.append(f"{some(used.nodes, 'node')} of {used.kind}{named}{left}")
        said = (
            f"{said} on {'; '.join(where)}"
            if room.machines.where != "this machine"
            else f"{said}: it is here"
        )
        if found.reason:
            said += f"; {found.reason}" if not found.held else f"; begins with {found.held}: {found.reason}"
        lines.append(("needs" if not lines else "", said))
    return lines


def cost_of(floor: Floor, time_h: float | None, gpus: float) -> dict[str, Any]:
    """Hours and dollars, None where what they follow from is not known."""
    rate, unpriced = floor.usd_per_hour()
    return {
        "hours": time_h,
        "gpu_hours": None if time_h is None else time_h * gpus,
        "usd_per_hour": rate,
        "usd": None if time_h is None or rate is None else time_h * rate,
        "unpriced": unpriced,
        "nodes": dict(floor.nodes()),
    }


def cost_line(cost: dict[str, Any], room: Room) -> Line:
    if room.machines.where == "this machine":
        return "costs", f"{cost['gpu_hours']:.1f} GPU-hours" if cost[
            "gpu_hours"
        ] else "no price is known of this machine"
    said = [f"{cost['gpu_hours']:,.1f} GPU-hours"] if cost["gpu_hours"] else []
    if cost["usd_per_hour"] is None:
        names = ", ".join(dict.fromkeys(cost["unpriced"]))
        said.append(f"no price is known of {names}, so no cost is shown ({room.prices.said()})")
    elif cost["usd"] is None:
        said.append(f"{cost['usd_per_hour']:.2f} USD an hour ({room.prices.said()}); hours are not known")
    else:
        nodes = some(sum(cost["nodes"].values()), "node")
        rate = f"{cost['usd_per_hour']:.2f} USD an hour for {nodes} and the head"
        said.append(f"{hours(cost['hours'])} x {rate} = {usd(cost['usd'])} (on demand, {room.prices.said()})")
    return "costs", "; ".join(said)


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise RequestError(
            f"{name}={text} is not a number from {low:g} to {high:g}", f"leave {name}= out, or correct it"
        )
    return value
