"""What an epoch is: how many samples of each part it draws, and which steps are its own."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from fractions import Fraction

from raypipe.errors import RequestError

MOST = 100_000  # epochs: each is counted on its own, and its size written down


class Epochs:
    """How many samples of each part an epoch draws, and which steps are its own.

    Args:
        counts: samples of each part.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], global_batch: int) -> None:
        self._each = [Fraction(str(w)) * n for w, n in zip(weights, counts, strict=True)]
        self._batch, self._firsts = global_batch, [0]

    def drawn(self, part: int, epoch: int) -> tuple[int, int]:
        """Which samples of a part's endless stream an epoch takes: from the first up to the last."""
        return math.floor(self._each[part] * epoch), math.floor(self._each[part] * (epoch + 1))

    def size(self, epoch: int) -> int:
        """Samples of an epoch."""
        drawn = (self.drawn(part, epoch) for part in range(len(self._each)))
        return sum(last - first for first, last in drawn)

    def first_step(self, epoch: int) -> int:
        while len(self._firsts) <= epoch:
            size = self.size(len(self._firsts) - 1)
            self._firsts.append(self._firsts[-1] + math.ceil(size / self._batch))
        return self._firsts[epoch]

    def place(self, step: int) -> tuple[int, int]:
        """The epoch of a step, and which of its steps it is."""
        while self._firsts[-1] <= step:
            self.first_step(len(self._firsts))
        epoch = bisect.bisect_right(self._firsts, step) - 1
        return epoch, step - self._firsts[epoch]

    def check(self, steps: int) -> None:
        """Refuses what would be counted for ever.

        Raises:
            RequestError: so many steps are more than ``MOST`` epochs.
        """
        an_epoch = max(1, math.ceil(sum(self._each) / self._batch))
        if steps > MOST * an_epoch:
            raise RequestError(
                f"{steps:,} steps are more than {MOST:,} epochs of {an_epoch:,} each",
                "lower steps, or give epochs",
            )

    def steps(self, epochs: float) -> int:
        """The steps of so many epochs; of a fraction of one, rounded up."""
        whole = math.floor(epochs)
        first = self.first_step(whole)
        part = Fraction(str(epochs)) - whole
        return first + (math.ceil(part * (self.first_step(whole + 1) - first)) if part else 0)
