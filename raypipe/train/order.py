"""The order of the data: a pure function of seed, epoch and position, whatever the number of workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MEGABATCH = 64  # global batches that are sorted by length together


@dataclass(frozen=True)
class Order:
    """Which samples make up which optimizer step.

    Args:
        count: samples in the mixture.
        global_batch: samples of one optimizer step over all workers.
        seed: of the permutation; each epoch has its own.
        lengths: one signed length a sample (negative: text-only); given, batches hold samples of one
            modality and of like length.
    """

    count: int
    global_batch: int
    seed: int
    lengths: tuple[int, ...] | None = None
    _made: dict[int, list[tuple[int, ...]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.count / self.global_batch)

    def batch(self, step: int) -> tuple[int, ...]:
        """The samples of an optimizer step (counted from 0 over all epochs).

        The last batch of an epoch may be smaller; every sample is in exactly one batch of an epoch.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch not in self._made:  # one epoch is kept: a large mixture takes a second to order
            batches = self._epoch(epoch)
            self._made.clear()
            self._made[epoch] = batches
            return batches[within]
        return self._made[epoch][within]

    def _epoch(self, epoch: int) -> list[tuple[int, ...]]:
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        shuffled = rng.permutation(self.count)
        if self.lengths is None:
            return _cut(shuffled, self.global_batch)
        return self._grouped(shuffled, rng)

    def _grouped(self, shuffled: np.ndarray, rng: np.random.Generator) -> list[tuple[int, ...]]:
        lengths = np.asarray(self.lengths)
        whole: list[tuple[int, ...]] = []
        rest: list[int] = []
        for group in (shuffled[lengths[shuffled] > 0], shuffled[lengths[shuffled] <= 0]):
            for window in _cut(group, self.global_batch * MEGABATCH):
                by_length = sorted(window, key=lambda i: -abs(int(lengths[i])))
                batches = _cut(np.asarray(by_length), self.global_batch)
                whole += [b for b in batches if len(b) == self.global_batch]
                rest += [i for b in batches if len(b) < self.global_batch for i in b]
        ordered = [whole[i] for i in rng.permutation(len(whole))]
        return ordered + _cut(np.asarray(rest, dtype=int), self.global_batch)


def share(batch: Sequence[int], rank: int, world: int) -> tuple[int, ...]:
    """The samples of a batch that a rank takes; over all ranks, each sample once."""
    return tuple(batch[rank::world])


def rate_factor(step: int, steps: int, warmup_ratio: float, kind: str) -> float:
    """Learning-rate factor of an optimizer step: linear warm-up from 0, then the schedule.

    As the reference has it, the very first step has rate 0 when there is a warm-up.
    """
    warm = math.ceil(warmup_ratio * steps)
    if step < warm:
        return step / warm
    if kind == "constant":
        return 1.0
    done = (step - warm) / max(1, steps - warm)
    return 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def _cut(items: np.ndarray | Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(int(i) for i in items[s : s + size]) for s in range(0, len(items), size)]
