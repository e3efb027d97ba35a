"""What a rank is doing at this moment: written by its loop, read by the thread that tells the driver."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Status:
    """Step, phase and samples of a rank; setting it costs a microsecond.

    ``phase`` is one of start, data, forward, backward, step, checkpoint, done. ``moved`` is the monotonic
    time of the last change.
    """

    step: int = 0
    micro: int = 0
    phase: str = "start"
    samples: tuple[str, ...] = ()
    moved: float = field(default_factory=time.monotonic)

    def at(
        self,
        phase: str,
        *,
        step: int | None = None,
        micro: int | None = None,
        samples: tuple[str, ...] | None = None,
    ) -> None:
        """Says where the loop is now; what is not given stays."""
        self.phase = phase
        if step is not None:
            self.step = step
        if micro is not None:
            self.micro = micro
        if samples is not None:
            self.samples = samples
        self.moved = time.monotonic()
