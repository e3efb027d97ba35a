"""What has to hold between an undisturbed run and a disturbed one, each said with the numbers it rests on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raypipe.chaos.facts import Facts

GPU_TOLERANCE = 0.01  # of a loss, where the same bits are not promised
SHOWN = 3


@dataclass(frozen=True)
class Check:
    """One thing that has to hold, and what was found."""

    name: str
    held: bool
    detail: str


@dataclass(frozen=True)
class Fired:
    """A fault: what it was to do, whether it did."""

    fault: str
    text: str
    planned: int
    fired: int
    at: tuple[int, ...] = ()
    counted: str = ""  # what ``at`` is the number of

    @property
    def all(self) -> bool:
        return 0 < self.planned <= self.fired


@dataclass(frozen=True)
class Proof:
    checks: tuple[Check, ...]
    fired: tuple[Fired, ...]

    @property
    def verdict(self) -> str:
        """ "proved"; "not proved": a fault did not fire, so nothing is known of it; "disproved"."""
        if not all(check.held for check in self.checks):
            return "disproved"
        return "proved" if self.fired and all(f.all for f in self.fired) else "not proved"

    def row(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "checks": [asdict(check) for check in self.checks],
            "faults": [asdict(fired) for fired in self.fired],
        }


def compare(
    verb: str, expected: Sequence[str] | None, clean: Facts, disturbed: Facts, exact: bool
) -> list[Check]:
    """All that has to hold for a kind of run.

    Args:
        expected: the ids of the inputs; None where the run has no list of them.
        exact: whether the same bytes are promised on this machine.
    """
    return list(_checks(verb, expected, clean, disturbed, exact))


def _checks(
    verb: str, expected: Sequence[str] | None, clean: Facts, disturbed: Facts, exact: bool
) -> Iterator[Check]:
    both = f"{clean.code} and {disturbed.code}"
    yield Check("the last start ends as the undisturbed one", clean.code == disturbed.code, f"exit {both}")
    if expected is not None:
        yield once("each input is there exactly once", expected, disturbed.ids)
        yield once("the ids are those of the undisturbed run", clean.ids, disturbed.ids)
    if exact:
        yield _files(clean.files, disturbed.files)
    if verb == "evaluate":
        yield once("the verdicts are the same", clean.verdicts, disturbed.verdicts)
        yield Check("the scores are the same", clean.scores == disturbed.scores, _scored(disturbed.scores))
    if verb == "train":
        yield _losses(clean.losses, disturbed.losses, exact)
        same = clean.samples == disturbed.samples
        counted = len(disturbed.samples)
        named = "the same samples in the same order, each counted once"
        yield Check(named, same and counted > 0, f"{counted} samples")
    damage = "; ".join(disturbed.damage[:SHOWN]) or "no damage"
    yield Check("verify finds nothing", not disturbed.damage and not clean.damage, damage)


def once(name: str, wanted: Sequence[str], found: Sequence[str]) -> Check:
    """Whether two lists hold the same, each as often."""
    have, want = Counter(found), Counter(wanted)
    lost, more = want - have, have - want
    twice = {i for i in more if want[i]}
    foreign = set(more) - twice
    said = [f"{len(found)} of {len(wanted)}"]
    for word, which in (("lost", lost), ("doubled", twice), ("foreign", foreign)):
        if which:
            names = ", ".join(str(i)[:80] for i in sorted(which)[:SHOWN])
            said.append(f"{len(which)} {word}: {names}{', ...' if len(which) > SHOWN else ''}")
    return Check(name, have == want, "; ".join(said))


def _files(clean: dict[str, str], disturbed: dict[str, str]) -> Check:
    other = sorted(n for n in {*clean, *disturbed} if clean.get(n) != disturbed.get(n))
    said = f"{len(clean)} files" if not other else f"{len(other)} differ: {', '.join(other[:SHOWN])}"
    return Check("the files are the same, byte for byte", not other and bool(clean), said)


def _losses(clean: Sequence[float | None], disturbed: Sequence[float | None], exact: bool) -> Check:
    name = "the loss is the same at every step"
    if len(clean) != len(disturbed) or not clean:
        return Check(name, False, f"{len(clean)} and {len(disturbed)} steps")
    pairs = list(zip(clean, disturbed, strict=True))
    if exact:
        other = [n for n, (a, b) in enumerate(pairs, 1) if a != b]
        said = f"{len(pairs)} steps, to the last bit" if not other else f"differs from step {other[0]} on"
        return Check(name, not other, said)
    off = max(
        (abs(a - b) / max(abs(a), 1e-6) for a, b in pairs if a is not None and b is not None),
        default=math.inf,
    )
    whole = all((a is None) == (b is None) for a, b in pairs)
    return Check(name, whole and off <= GPU_TOLERANCE, f"{len(pairs)} steps, at most {off:.2%} apart")


def _scored(scores: Any) -> str:
    rows = (scores or {}).get("benchmarks", {})
    return ", ".join(
        f"{name} {found[0]['metric']} {found[0]['value']:.2f}" for name, found in rows.items() if found
    )
