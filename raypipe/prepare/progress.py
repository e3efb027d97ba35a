"""How far a prepare run is: counts, rates, time left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from raypipe.prepare.units import UnitRef
from raypipe.terminal import duration


@dataclass
class Tally:
    """Counts of one session of a run; what was committed before it is in ``media_before``."""

    media: int
    media_before: int
    weight: int
    started: float = field(default_factory=time.monotonic)
    media_done: int = 0
    weight_done: int = 0
    ok: int = 0
    quarantined: int = 0
    frames: int = 0
    source_bytes: int = 0
    _weights: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)

    @classmethod
    def start(cls, units: Sequence[UnitRef], todo: Sequence[UnitRef]) -> Tally:
        total, left = sum(u.media for u in units), sum(u.media for u in todo)
        weights = {u.id: (u.weight, u.media) for u in todo}
        return cls(left, total - left, sum(u.weight for u in todo), _weights=weights)

    def add(self, record: dict[str, Any]) -> None:
        """Counts a unit that was carried out."""
        weight, media = self._weights[record["unit"]]
        self.weight_done += weight
        self.media_done += media
        self.ok += len(record["keys"]) + len(record["aliases"])
        self.quarantined += len(record["rejections"])
        self.frames += record["frames"]
        self.source_bytes += record["source_bytes"]

    def seconds_left(self, now: float | None = None) -> float | None:
        """From the weight of what is done; None before the first unit."""
        took = (now or time.monotonic()) - self.started
        if not self.weight_done:
            return None
        return took * (self.weight - self.weight_done) / self.weight_done

    def line(self, now: float | None = None) -> str:
        """For a person: media, rates a second, outcome, time left."""
        took = max(1e-9, (now or time.monotonic()) - self.started)
        parts = [f"{self.media_before + self.media_done}/{self.media_before + self.media} media"]
        parts.append(f"{self.media_done / took:.1f}/s")
        parts.append(f"{self.frames / took:.0f} frames/s")
        parts.append(f"{self.source_bytes / took / 1e6:.1f} MB/s")
        parts.append(f"{self.ok} ok, {self.quarantined} quarantined")
        left = self.seconds_left(now)
        if left is not None and self.media_done < self.media:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def counts(self) -> dict[str, Any]:
        """Numbers for a program: pairs are done and all, over all starts; single ones are of this start."""
        all_media = self.media_before + self.media
        return {
            "media": [self.media_before + self.media_done, all_media],
            "ok": self.ok,
            "quarantined": self.quarantined,
        }
