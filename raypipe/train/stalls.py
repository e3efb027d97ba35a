"""Is a run stuck, and which rank is to blame: decided from what the board shows, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_ORDER = ("data", "sum", "forward", "backward", "step")  # of phases in a micro-batch
COLLECTIVE = ("torch/distributed/distributed_c10d.py", "deepspeed/comm/")


@dataclass(frozen=True)
class Limits:
    """After how many seconds without movement a run is stuck, and without a sign a rank is silent.

    Building, loading, saving and the first step get ``start_s``. Not so a rank that falls silent while it
    saves: writing leaves its thread of signs alone.
    """

    stall_s: float
    start_s: float

    @property
    def silent_s(self) -> float:
        return max(3.0, self.stall_s / 2)

    def of(self, rank: dict[str, Any]) -> float:
        saves = rank["phase"] == "checkpoint" and not self.silent(rank)
        return self.start_s if saves or rank["phase"] == "start" or not rank["warm"] else self.stall_s

    def silent(self, rank: dict[str, Any]) -> bool:
        return rank["age_s"] > self.silent_s


@dataclass(frozen=True)
class Stall:
    """A stuck attempt: the ranks to blame, and why they."""

    culprits: tuple[int, ...]
    why: str
    limit_s: float


def judge(view: dict[str, Any], limits: Limits) -> Stall | None:
    """The stall that the board shows; None while something moves.

    Ranks wait for each other in every step, so a run is stuck when no rank moves. To blame is who was never
    heard of; else who is silent (stopped, or stuck outside Python); else who is behind; else who computes or
    reads while the others wait for it in a collective.
    """
    ranks = [r for r in view["ranks"] if r["phase"] != "done"]
    if view["ended"] or not ranks:
        return None
    still = min(r["still_s"] + r["age_s"] for r in ranks)
    missing = tuple(sorted(set(range(view["world"])) - {r["rank"] for r in view["ranks"]}))
    if missing:
        stuck = still >= limits.start_s
        return Stall(missing, "never began", limits.start_s) if stuck else None
    culprits, why = _culprits(ranks, limits)
    limit = max(limits.of(r) for r in culprits)
    if still < limit:
        return None
    return Stall(tuple(r["rank"] for r in culprits), why, limit)


def _culprits(ranks: list[dict[str, Any]], limits: Limits) -> tuple[list[dict[str, Any]], str]:
    silent = [r for r in ranks if limits.silent(r)]
    if silent:
        return silent, "gives no sign of life"
    last = min((r["step"], r["micro"]) for r in ranks)
    behind = [r for r in ranks if (r["step"], r["micro"]) == last]
    if len(behind) < len(ranks):
        return behind, "is behind the others"
    working = [r for r in ranks if not waits(r)]
    if working and len(working) < len(ranks):
        return working, "keeps the others waiting"
    places = [_ORDER.index(r["phase"]) if r["phase"] in _ORDER else len(_ORDER) for r in ranks]
    slow = [r for r, place in zip(ranks, places, strict=True) if place == min(places)]
    return slow, "is behind the others" if len(slow) < len(ranks) else "does not move"


def waits(rank: dict[str, Any]) -> bool:
    """Whether its stack shows that it waits for the other ranks."""
    lines = rank.get("stacks", {}).get("training", [])
    return any(part in line for line in lines for part in COLLECTIVE)


def report(view: dict[str, Any], stall: Stall, when: str) -> dict[str, Any]:
    """The hang report: who, where, at what, with all stacks. Steps count from 1, as in metrics.jsonl."""
    keys = ("rank", "host", "node", "pid", "micro", "phase", "samples", "stacks")
    ranks = []
    for said in view["ranks"]:
        entry = {key: said[key] for key in keys if key in said} | {"step": said["step"] + 1}
        entry |= {"still_s": round(said["still_s"] + said["age_s"], 1)}
        ranks.append(entry | {"silent_s": round(said["age_s"], 1)})
    blamed = [r for r in ranks if r["rank"] in stall.culprits]
    return {
        "when": when,
        "attempt": view["attempt"],
        "step": min((r["step"] for r in blamed), default=0),
        "culprits": list(stall.culprits),
        "why": stall.why,
        "limit_s": stall.limit_s,
        "world": view["world"],
        "ranks": ranks,
    }


def sentence(report: dict[str, Any]) -> str:
    """The report in one line, for the log."""
    said = []
    for rank in report["ranks"]:
        if rank["rank"] in report["culprits"]:
            shown = ", ".join(rank["samples"][:4]) + (", ..." if len(rank["samples"]) > 4 else "")
            where = f"rank {rank['rank']} ({rank['host']}, process {rank['pid']})"
            said.append(
                f"{where} {report['why']} in {rank['phase']} of step {rank['step']}"
                + (f", samples {shown}" if shown else "")
            )
    missing = [r for r in report["culprits"] if r not in {e["rank"] for e in report["ranks"]}]
    said += [f"rank {r} {report['why']}" for r in missing]
    return f"nothing has moved for {report['limit_s']:g} s: " + "; ".join(said[:3])
