"""How far an evaluation is: questions, media, verdicts, rates, time left."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from raypipe.evaluate.plan import Unit
from raypipe.evaluate.scores import ANSWERED
from raypipe.evaluate.work import Done
from raypipe.terminal import duration


@dataclass
class Tally:
    """Counts of one session of a run; what was committed before it is in ``before``."""

    questions: int
    before: int = 0
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    media: int = 0
    answered: int = 0
    failed: int = 0
    judged: int = 0
    to_judge: int = 0
    cost_usd: float = 0.0
    _units: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)

    @classmethod
    def start(cls, units: Sequence[Unit]) -> Tally:
        counts = {u.id: (u.count, u.media) for u in units}
        return cls(sum(count for count, _ in counts.values()), _units=counts)

    def holds(self, units: Collection[str]) -> None:
        """Counts the units that were committed before."""
        self.before = sum(self._units[i][0] for i in units)
        self.started = time.monotonic()

    def add(self, done: Done) -> None:
        """Counts a unit that was carried out."""
        count, media = self._units[done.unit]
        self.done += count
        self.media += media
        answered = sum(p.outcome in ANSWERED for p in done.predictions)
        self.answered += answered
        self.failed += count - answered

    def seconds_left(self, now: float | None = None) -> float | None:
        """Until the last answer; None before the first."""
        left = self.questions - self.before - self.done
        took = (now or time.monotonic()) - self.started
        return took * left / self.done if self.done else None

    def line(self, now: float | None = None) -> str:
        """For a person: questions, rates a second, outcomes, time left, verdicts."""
        took = max(1e-9, (now or time.monotonic()) - self.started)
        done = self.before + self.done
        parts = [f"{done}/{self.questions} questions"]
        if self.done:
            parts.append(f"{self.done / took:.1f}/s, {self.media / took:.1f} media/s")
            now_only = "now " if self.before else ""  # what was committed before is in the first number alone
            parts.append(f"{now_only}{self.answered} answered, {self.failed} failed")
        left = self.seconds_left(now)
        if left is not None and done < self.questions:
            parts.append(f"{duration(left)} left")
        if self.to_judge:
            parts.append(f"{self.judged}/{self.to_judge} judged")
        if self.cost_usd:
            parts.append(f"${self.cost_usd:.2f}")
        return ", ".join(parts)

    def counts(self) -> dict[str, Any]:
        """Numbers for a program: pairs are done and all, over all starts; single ones are of this start."""
        return {
            "questions": [self.before + self.done, self.questions],
            "answered": self.answered,
            "failed": self.failed,
            **({"verdicts": [self.judged, self.to_judge]} if self.to_judge else {}),
        }
