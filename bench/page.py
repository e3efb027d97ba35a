"""The measured figures as a page that a person reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.machine import PACKAGES

CLOCKS = {
    "prepare": "A ratio is the median of paired ratios of CPU seconds (of the whole process tree where\n"
    "Ray or a pool takes part).",
    "train": "A ratio is the median of paired ratios of seconds on the clock, of steps only: what a process\n"
    "needs to start is not in it.",
    "evaluate": "A ratio is the median of paired ratios of seconds on the clock.",
}


def page(found: dict[str, Any], verb: str) -> Iterator[str]:
    """``docs/measured/VERB.json`` as Markdown lines."""
    machine = found["machine"]
    versions = ", ".join(f"{k} {machine[k]}" for k in ("python", *PACKAGES[1:]) if k in machine)
    yield f"# The speed of {verb}, measured"
    yield ""
    yield f"- {found['date']}, `{found['command']}`"
    yield f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {versions}"
    yield f"- load average at the start: {', '.join(str(x) for x in machine['load_at_start'])}"
    yield ""
    yield CLOCKS[verb]
    yield "The ratio has its 95 % bootstrap interval. The two arms run in turn, one warm-up each."
    yield "A target is met when the whole interval is at or below it, missed when the whole interval is above"
    yield "it, and undecided otherwise. The wall column is the median ratio on the clock, for information."
    yield ""
    yield "| figure | ratio | interval | target | verdict | s | peer s | wall | pairs |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in (f for f in found["figures"] if "median" in f):
        interval = f"{one['low']:.3f} to {one['high']:.3f}"
        wall = f"{one['wall_median']:.3f}" if one.get("wall_median") else "-"
        cells = [one["name"], f"{one['median']:.3f}", interval, one["target"], one["verdict"]]
        cells += [one["a_s"], one["b_s"], wall, one["pairs"]]
        yield "| " + " | ".join(str(c) for c in cells) + " |"
    others = [f for f in found["figures"] if "value" in f]
    if others:
        yield ""
        yield "| figure | value | unit | at most | verdict |"
        yield "|---|---|---|---|---|"
        for one in others:
            cells = [one[k] for k in ("name", "value", "unit", "target", "verdict")]
            yield "| " + " | ".join("-" if c is None else str(c) for c in cells) + " |"
    yield ""
    yield "## What was compared"
    yield ""
    for one in found["figures"]:
        yield f"- **{one['name']}**: {one['a']}" + (f"; against {one['b']}." if "b" in one else ".")
        yield from _more(one)


def _more(one: dict[str, Any]) -> Iterator[str]:
    if "note" in one:
        yield f"  {one['note'].capitalize()}."
    if "peers_once_s" in one:
        yield "  Peers, once each: " + ", ".join(f"{k} {v} s" for k, v in one["peers_once_s"].items()) + "."
    if "clips" in one:
        if one.get("real_only"):
            yield f"  The real clips alone: {one['real_only']}."
        yield "  | clip | ratio | raypipe s | decord s |\n  |---|---|---|---|"
        for clip in one["clips"]:
            yield f"  | {clip['clip']} | {clip['ratio']} | {clip['raypipe_s']:.3f} | {clip['decord_s']:.3f} |"
        for clip in one["left_out"]:
            yield f"\n  Left out: {clip['clip']} ({clip['why']})."
