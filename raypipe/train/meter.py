"""A step's rates, shares and time left, from what the loop counted."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from raypipe.records import MediumKind
from raypipe.train.flops import COUNTED, Flops

WINDOW = 50  # steps that running means go over
_MEANS = ("tokens_s", "samples_s", "data_wait", "mfu")
# What depends on when and where a step was computed; the rest of a row is the same in every run.
TIMED = (
    "step_s",
    "data_wait_s",
    *_MEANS,
    *(f"{k}_mean" for k in _MEANS),
    "eta_s",
    "attempt",
    "mfu_convention",
)


class Meter:
    """Adds to each row: tokens_s, samples_s, useful, data_wait, mfu, their running means and eta_s.

    ``mfu`` is None without a peak. ``useful`` is the share of tokens in all computed positions, ``data_wait``
    that of waiting for data in the step's time. Means (``..._mean``) are over the last ``WINDOW`` steps of
    this attempt; the first, slow step is left out of them as soon as there is another.

    Args:
        flops: what a token and a frame cost; None leaves mfu out.
        peak: FLOP/s of one device.
        source: where the peak is from.
    """

    def __init__(
        self,
        world: int = 1,
        flops: Flops | None = None,
        peak: float | None = None,
        source: str = "no peak is known",
    ) -> None:
        self._world, self._flops, self._peak = world, flops, peak
        self.convention = f"{COUNTED}; {source}" if flops and peak else f"none: {source}"
        self._rows: deque[dict[str, Any]] = deque(maxlen=WINDOW)
        self._ends: deque[float] = deque(maxlen=WINDOW + 1)
        self._first = True

    def __call__(self, row: dict[str, Any], now: float | None = None) -> dict[str, Any]:
        """The row with what follows from it. ``now`` is the monotonic time of its end."""
        if self._first and self._rows:
            self._rows.clear()
            self._first = False
        self._rows.append(row)
        self._ends.append(time.monotonic() if now is None else now)
        own, means = self._rates([row]), self._rates(self._rows)
        return {**row, **own, **{f"{key}_mean": means[key] for key in _MEANS}, "eta_s": self._left(row)}

    def _rates(self, rows: Any) -> dict[str, Any]:
        def total(name: str) -> float:
            return sum(row.get(name, 0) or 0 for row in rows)

        took, slots = total("step_s"), total("slots")
        found: dict[str, Any] = {
            "tokens_s": _over(total("tokens"), took),
            "samples_s": _over(total("samples"), took),
            "useful": _over(total("tokens"), slots),
            "data_wait": _over(total("data_wait_s"), took),
            "mfu": None,
        }
        if self._flops and self._peak:
            frames = {
                MediumKind.IMAGE: int(total("images")),
                MediumKind.VIDEO: int(total("video_frames")),
            }
            work = self._flops.of(int(total("tokens")), int(total("samples")), frames)
            found["mfu"] = _over(work, took * self._world * self._peak)
        return {k: v if v is None else float(f"{v:.5g}") for k, v in found.items()}

    def _left(self, row: dict[str, Any]) -> float | None:
        """Seconds to the end at the pace of the last steps, what lies between them included."""
        if len(self._ends) < 2:
            return None
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return round(pace * (row["steps"] - row["step"]), 1)


def _over(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
