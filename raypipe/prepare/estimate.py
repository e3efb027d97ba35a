"""What a prepare run would do, take and write; nothing is started and nothing is written.

Time and size are measured on a few media chosen by their names, and scaled by the weight of the rest.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from raypipe.media.sandbox import shared_sandbox
from raypipe.prepare.held import held_by, plan_units, reusable, rows_of
from raypipe.prepare.progress import duration
from raypipe.prepare.read import Annotations
from raypipe.prepare.survey import Survey, survey
from raypipe.prepare.units import Unit, Wanted
from raypipe.prepare.work import request_of
from raypipe.records import Medium, MediumKind
from raypipe.settings import DatasetSettings
from raypipe.store.files import Store

PROBES, PROBE_S = 8, 20.0  # of each kind: so many media, and no longer than this


def estimate(settings: DatasetSettings, *, probes: int = PROBES) -> dict[str, Any]:
    """Counts records and media exactly, and estimates CPU time and bytes from a few decoded media.

    Raises:
        RequestError: missing data root or annotation file.
    """
    annotations = Annotations(settings)
    others = [held_by(run.store) for run in reusable(settings)]
    found = survey(settings, annotations)
    own = held_by(Store(settings.out))
    units = plan_units(settings, found.media, own, others)
    done = {key for record in own.records.values() for key in rows_of(record)}
    decode = [m for u in units if u.id not in own.records and not u.shard for m in u.media]
    measured = {kind: _probe(settings, decode, kind, probes) for kind in MediumKind}
    cpu_s = sum(m["cpu_s"] for m in measured.values())
    cores = settings.concurrency or os.cpu_count() or 1
    return {
        "name": settings.name,
        "out": settings.out,
        "records": sum(annotations.records.values()),
        "samples": dict(sorted(found.samples.items())),
        "bad_records": found.rejected,
        "removed_records": sum(annotations.records.values()) - found.samples.total() - found.rejected,
        **_media(found, done, decode, units, own.records.keys()),
        "measured": measured,
        "cpu_s": cpu_s,
        "cores": cores,
        "wall_s": cpu_s / cores,
        "out_bytes": sum(m["out_bytes"] for m in measured.values()),
    }


def _media(
    found: Survey, done: set[str], decode: Sequence[Wanted], units: Sequence[Unit], committed: Any
) -> dict[str, Any]:
    return {
        "media": dict(Counter(m.kind.value for m in found.media)),
        "media_missing": sum(m.size < 0 for m in found.media),
        "media_bytes": sum(max(0, m.size) for m in found.media),
        "media_committed": sum(m.key in done for m in found.media),
        "media_taken_over": sum(len(u.media) for u in units if u.shard and u.id not in committed),
        "media_to_decode": len(decode),
        "bytes_to_read": sum(max(0, m.size) for m in decode),
        "units": sum(u.id not in committed for u in units),
    }


def _probe(
    settings: DatasetSettings, decode: Sequence[Wanted], kind: MediumKind, probes: int
) -> dict[str, Any]:
    """Decodes a few media of a kind; what all of that kind will take, by weight."""
    mine = sorted((m for m in decode if m.kind is kind and m.size > 0), key=lambda m: m.key)
    sandbox = shared_sandbox(settings.limits)
    if mine:
        sandbox.decode(request_of(mine[0], settings))  # pays for the start of the decoder
    weight = out_bytes = bad = count = 0
    took = 0.0
    for medium in mine[:probes]:
        if took > PROBE_S:
            break
        started = time.monotonic()
        result = sandbox.decode(request_of(medium, settings))
        took += time.monotonic() - started
        weight += medium.weight
        out_bytes += sum(map(len, result.frames)) if isinstance(result, Medium) else 0
        bad += not isinstance(result, Medium)
        count += 1
    share = sum(m.weight for m in mine) / weight if weight else 0.0
    return {"probed": count, "bad": bad, "cpu_s": took * share, "out_bytes": round(out_bytes * share)}


def render(plan: dict[str, Any]) -> str:
    """For a person."""
    lines = (f"  {name:<14} {said}" for name, said in estimate_lines(plan))
    return "\n".join([f"plan of {plan['name']}: nothing is started", *lines])


def estimate_lines(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """An estimate for a person: a name and what is said of it a line."""
    counts = sorted(plan["media"].items())
    kinds = ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in counts) or "none"
    samples = ", ".join(f"{n} {name}" for name, n in plan["samples"].items())
    lines = [
        ("records", f"{plan['records']} ({samples}), {plan['bad_records']} bad"),
        ("media", f"{kinds}, {_bytes(plan['media_bytes'])}; {plan['media_missing']} missing"),
        (
            "there already",
            f"{plan['media_committed']} decoded here, {plan['media_taken_over']} in reused runs",
        ),
        (
            "to decode",
            f"{plan['media_to_decode']} media, {_bytes(plan['bytes_to_read'])}, {plan['units']} units",
        ),
        ("will write", f"about {_bytes(plan['out_bytes'])} of frames in {plan['out']}"),
        ("will take", f"about {duration(plan['wall_s'])} on {plan['cores']} cores"),
    ]
    if plan["removed_records"]:
        lines.insert(1, ("removed", f"{plan['removed_records']} records by the removal list"))
    bad = sum(m["bad"] for m in plan["measured"].values())
    probed = sum(m["probed"] for m in plan["measured"].values())
    lines.append(("measured on", f"{probed} media" + (f", {bad} of them bad" if bad else "")))
    return lines


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
