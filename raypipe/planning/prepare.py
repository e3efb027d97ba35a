"""The plan of a prepare run: the verb's own estimate, held against machines and prices."""

from __future__ import annotations

from typing import Any

from raypipe.planning.fit import MOST_ASKED, Ask, Fit, placed
from raypipe.planning.room import Room, cost_line, cost_of, place_lines
from raypipe.planning.text import Line, hours, page
from raypipe.prepare.estimate import estimate, estimate_lines
from raypipe.settings import DatasetSettings


def plan_prepare(settings: DatasetSettings, room: Room) -> tuple[str, dict[str, Any], list[Fit]]:
    """The plan as text and as data, and where its tasks find room.

    Raises:
        RequestError: missing data root or annotation file.
    """
    found = estimate(settings)
    count = max(1, min(found["units"], settings.concurrency or found["units"], MOST_ASKED))
    fits, floor = placed([Ask("decoding task", count, 1, 1, 0)], room.machines)
    lines: list[Line] = list(estimate_lines(found))
    result = {**found, "machines": room.machines.row(), "fit": [one.row() for one in fits]}
    if room.machines.where != "this machine":
        at_once = max(1, fits[0].held)
        time_h = found["cpu_s"] / at_once / 3600
        result["cost"] = cost_of(floor, time_h, 0)
        said = f"about {hours(time_h)} with {at_once} tasks at once, as fast as this machine's cores"
        lines = [line for line in lines if line[0] != "will take"]
        lines += [("will take", said), *place_lines(fits, room), cost_line(result["cost"], room)]
    return page(f"plan of {found['name']}: nothing is started", lines), result, fits
