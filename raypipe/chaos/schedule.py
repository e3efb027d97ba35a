"""Which faults fall when: drawn from a seed, in units that are committed, never in seconds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.errors import RequestError, nearest

WORKER, DECODER, DRIVER, JUDGE = "worker", "decoder", "driver", "judge"
FAULTS = (WORKER, DECODER, DRIVER, JUDGE)
TEXTS = {
    WORKER: "Ray worker killed at its work",
    DECODER: "decoding child killed",
    DRIVER: "driver killed, same command again",
}
COMMITTED, READ = "committed", "begun to be read"
EARLY = 2 / 3  # of a run, in which kills fall: behind it there may be nobody left to kill


@dataclass(frozen=True)
class Kill:
    """A kill that falls when ``at`` units are committed, or begun to be read; in training, steps."""

    fault: str
    at: int
    counted: str


def chosen(given: str | None, possible: Sequence[str], what: str) -> list[str]:
    """The faults of a run: those that are named, or all that can befall it.

    Raises:
        RequestError: an unknown fault, or one that cannot befall this kind of run.
    """
    if given is None:
        return [f for f in FAULTS if f in possible]
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names or [""]:
        if name not in FAULTS:
            raise RequestError(f"no fault is called '{name}'", nearest(name, FAULTS))
        if name not in possible:
            raise RequestError(f"{what} has nothing that '{name}' could befall", nearest(name, possible))
    return [f for f in FAULTS if f in names]


def kills(seed: int, faults: Sequence[str], points: Sequence[int], ahead: bool = False) -> list[Kill]:
    """When each kill falls; the same seed, faults and points give the same.

    Args:
        points: how many units can be seen to be committed, rising; the last is the end of the run.
        ahead: media are read long before their units are committed, and whoever reads has to be hit then.
    """
    wanted = [f for f in faults if f != JUDGE]
    early = list(points[: max(1, int(len(points) * EARLY))])
    luck = random.Random(f"kills/{seed}")  # noqa: S311 - no secret
    if not early:
        return []
    some = (
        luck.sample(early, len(wanted)) if len(wanted) <= len(early) else luck.choices(early, k=len(wanted))
    )
    luck.shuffle(wanted)
    drawn = sorted(zip(some, wanted, strict=True))
    return [Kill(fault, at, READ if ahead and fault != DRIVER else COMMITTED) for at, fault in drawn]
