"""One rank's part of an optimizer step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from raypipe.model.splice import Batch
from raypipe.records import MediumKind
from raypipe.train.collate import collate, packed, share, shares
from raypipe.train.examples import STAND_IN, Example, Examples
from raypipe.train.metrics import Sink

TRAINED, CUT, DROPPED = "trained", "cut", "dropped"


@dataclass
class Worker:
    """One rank's place in the run."""

    rank: int
    world: int
    device: torch.device
    sinks: Sequence[Sink] = ()  # of metrics, on rank 0


class Seen(NamedTuple):
    """What became of a sample of the global batch: its slot, number in the mixture, id and state."""

    slot: int
    number: int
    id: str
    state: str  # TRAINED, CUT (trained, its text shortened) or DROPPED (no label of it counts)


@dataclass
class Work:
    """One rank's part of an optimizer step: its micro-batches, and what the loader counted."""

    batches: list[Batch]
    numbers: tuple[int, ...]  # samples of the whole global batch
    cut: int = 0  # of this rank's samples
    dropped: int = 0
    seen: tuple[Seen, ...] = ()  # this rank's samples; over all ranks each slot once

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """Of this rank: learned tokens, tokens, slots with padding, cut, dropped, images, video frames."""
        real = [b for b in self.batches if any(name for row in b.samples for name in row)]
        return (
            sum(b.learned for b in real),
            sum(int((b.segments_BL > 0).sum()) for b in real),
            sum(b.ids_BL.numel() for b in real),
            self.cut,
            self.dropped,
            *(
                sum(len(b.pixels.get(kind, ())) for b in real)
                for kind in (MediumKind.IMAGE, MediumKind.VIDEO)
            ),
        )


def work_of(
    examples: Examples,
    numbers: Sequence[int],
    worker: Worker,
    micro: int,
    dtype: torch.dtype | None,
    *,
    epoch: int | None = None,
) -> Work:
    """This rank's share of a global batch, cut into micro-batches: ``begin_work``, and waiting for it."""
    return begin_work(examples, numbers, worker, micro, dtype, epoch=epoch)()


def begin_work(
    examples: Examples,
    numbers: Sequence[int],
    worker: Worker,
    micro: int,
    dtype: torch.dtype | None,
    *,
    epoch: int | None = None,
) -> Callable[[], Work]:
    """Begins to make this rank's share of a global batch; the call that is returned ends it.

    A rank that has no rows left for one is given a row without labels, so that every rank takes part in
    every reduction and nothing is counted twice.

    Args:
        numbers: of the samples of the global batch, by slot.
        epoch: of the step: what is drawn for a sample depends on it; None draws nothing (no flip).
    """
    rows = rows_of(examples, numbers)
    cuts = shares(len(rows), worker.rank, worker.world, micro)
    slots = [slot for cut in cuts for row in cut for slot in rows[row]]
    drawn = examples.begin([numbers[slot] for slot in slots], epoch)

    def end() -> Work:
        made = dict(zip(slots, drawn(), strict=True))
        batches = []
        for cut in cuts:
            shown = [tuple(made[slot] for slot in rows[row]) for row in cut]
            rows_shown = shown or [(STAND_IN,)]
            batches.append(collate(rows_shown, dtype, worker.device, counts=bool(shown), look=examples.look))
        seen = tuple(Seen(slot, e.number, e.id, _state(e)) for slot, e in sorted(made.items()))
        counted = [s.state for s in seen]
        work = Work(batches, tuple(numbers), counted.count(CUT), counted.count(DROPPED), seen)
        _ = work.counts  # counted here, in the loader's thread
        return work

    return end


def rows_of(examples: Examples, numbers: Sequence[int]) -> list[tuple[int, ...]]:
    """The slots of a global batch that share a row; the same on every rank."""
    if examples.packing:
        return packed(examples.tokens(numbers), examples.max_tokens)
    return [(slot,) for slot in range(len(numbers))]


def own(examples: Examples, numbers: Sequence[int], rank: int, world: int) -> list[int]:
    """The samples of a global batch that a rank computes."""
    rows = rows_of(examples, numbers)
    return [numbers[slot] for row in share(len(rows), rank, world) for slot in rows[row]]


def _state(example: Example) -> str:
    return DROPPED if example.fault else CUT if example.cut else TRAINED
