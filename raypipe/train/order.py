"""The order of the data: a pure function of seed, epoch and position, whatever the number of workers.

A part's samples follow each other by permuted stretches of its shards; a sample that is seen more or less
often than once an epoch is so because an epoch takes more or less than one such pass, the next going on
where this one ended. The parts are interleaved in exact proportion. Consecutive samples form a window and
are shuffled within it, or, grouped, cut into batches of one modality and like length, which are shuffled.
Where in its batch a sample stands follows from where its medium lies (``blocks.py``).
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypipe.errors import DamageError
from raypipe.settings import StageSettings
from raypipe.train.blocks import Batches, Blocks
from raypipe.train.epochs import Epochs
from raypipe.train.mixture import Mixture
from raypipe.train.plan import StagePlan
from raypipe.train.split import split

STRETCHES = 128  # of a window: so many pieces of shards, about, are shuffled together; at least 16
MEDIA = 8  # of a stretch, at least, as far as a window is large enough for 16 of them
CROWD = 256  # a medium of more samples than this (or a stretch) is spread, for it would fill whole batches


@dataclass(frozen=True)
class Stock:
    """What the order needs to know of the samples that train [samples each].

    ``number`` in the mixture, ``part``, ``kind`` (TEXT, IMAGE, VIDEO), ``length``, and of the first medium
    the stored ``row`` (numbered in the order of storage, -1 for none) and its ``shard``.
    """

    number: np.ndarray
    part: np.ndarray
    kind: np.ndarray
    length: np.ndarray
    row: np.ndarray
    shard: np.ndarray

    @classmethod
    def of(cls, mixture: Mixture, numbers: np.ndarray) -> Stock:
        columns = mixture.columns
        row = columns.first_row()[numbers]
        shard = np.where(row >= 0, np.append(columns.row_shard, -1)[row], -1)
        return cls(numbers, columns.part[numbers], columns.kind[numbers], columns.length[numbers], row, shard)


def order_of(mixture: Mixture, plan: StagePlan, settings: StageSettings) -> Order:
    """The order of a stage: of what its split leaves to train on.

    Raises:
        DamageError: the data is another than what the stage was planned for.
    """
    order = Order(
        Stock.of(mixture, split(mixture, settings).train),
        [part.weight for part in settings.mixture],
        settings.global_batch,
        settings.seed,
        settings.shuffle_window,
        grouped=settings.group_by_length,
    )
    if order.epochs.size(0) != plan.samples:
        raise DamageError(
            f"the mixture has {order.epochs.size(0)} samples an epoch, {plan.samples} were planned",
            "a prepare run was changed meanwhile: start the stage in another out=",
        )
    return order


class Order:
    """Which samples make up which optimizer step.

    Args:
        weights: of each part: how often an epoch sees each of its samples.
        global_batch: samples of one optimizer step over all workers.
        window: samples that are shuffled together.
        grouped: batches hold samples of one modality and of like length.
    """

    def __init__(
        self,
        stock: Stock,
        weights: Sequence[float],
        global_batch: int,
        seed: int,
        window: int = 8192,
        *,
        grouped: bool = False,
    ) -> None:
        self.global_batch, self.seed, self.grouped = global_batch, seed, grouped
        self.window = max(1, round(window / global_batch)) * global_batch
        self._stock = stock
        counts = np.bincount(stock.part, minlength=len(weights))
        self.epochs = Epochs([int(n) for n in counts], weights, global_batch)
        media = stock.row[stock.row >= 0]
        each = len(media) / max(1, len(np.unique(media)))
        stretch = max(1, min(max(round(MEDIA * each), window // STRETCHES), window // 16))
        self._row = _uncrowded(stock, max(CROWD, stretch))
        self._parts = [
            _Part(np.flatnonzero(stock.part == p), self._row, stock.shard, stretch)
            for p in range(len(weights))
        ]
        self._stretch = np.full(len(stock.row), -1, np.int64)
        for part in self._parts:
            self._stretch[part.media] = part.stretch + self._stretch.max(initial=-1) + 1
        self._made: dict[int, Batches] = {}

    def batch(self, step: int) -> tuple[int, ...]:
        """The samples of an optimizer step (counted from 0 over all epochs), by their slots.

        The last batch of an epoch may be smaller; at weight 1 every sample is in exactly one of an epoch.
        """
        epoch, within = self.epochs.place(step)
        return tuple(self._epoch(epoch).batch(within).tolist())

    def epoch_of(self, step: int) -> int:
        return self.epochs.place(step)[0]

    def steps(self, epoch: int) -> range:
        """The steps of an epoch."""
        first = self.epochs.first_step(epoch)
        return range(first, self.epochs.first_step(epoch + 1))

    def together(self, step: int) -> range:
        """The steps around this one whose samples lie near each other in storage: those of its window."""
        epoch, within = self.epochs.place(step)
        first, ends = self.epochs.first_step(epoch), self._epoch(epoch).windows
        at = bisect.bisect_right(ends, within)
        return range(first + (ends[at - 1] if at else 0), first + ends[at])

    def digest(self, epoch: int) -> str:
        """Names the order of an epoch: SHA-256 over its batches."""
        made = self._epoch(epoch)
        digest = hashlib.sha256(np.asarray(made.ends, "<i8").tobytes())
        digest.update(made.numbers.astype("<i8").tobytes())
        return digest.hexdigest()

    def _epoch(self, epoch: int) -> Batches:
        made = self._made.get(epoch)
        if made is None:  # two are kept, for the loader looks ahead; to order a large mixture takes a while
            made = self._order(epoch)
            self._made = {e: m for e, m in self._made.items() if abs(e - epoch) == 1} | {epoch: made}
        return made

    def _order(self, epoch: int) -> Batches:
        streams = []
        for number, part in enumerate(self._parts):
            first, last = self.epochs.drawn(number, epoch)
            streams.append(part.stream(first, last, [self.seed, 1, number]))
        stream = interleaved(streams)
        stock, rng = self._stock, np.random.Generator(np.random.PCG64([self.seed, 0, epoch]))
        kind = stock.kind if self.grouped else np.zeros_like(stock.kind)
        blocks = Blocks(
            self._row, self._stretch, kind, stock.length, self.global_batch, rng, grouped=self.grouped
        )
        for start in range(0, len(stream), self.window):
            blocks.add(stream[start : start + self.window])
        made = blocks.close()
        return Batches(stock.number[made.numbers], made.ends, made.windows)


class _Part:
    """The endless stream of a part's samples: pass after pass over all of them.

    ``media`` are its samples with media in the order of storage, ``stretch`` numbers the stretch of each.
    """

    def __init__(self, members: np.ndarray, row: np.ndarray, shard: np.ndarray, stretch: int) -> None:
        rows = row[members]
        self._text = members[rows < 0]
        media = members[rows >= 0]
        self.media = media[np.argsort(row[media], kind="stable")]
        rows, shards = row[self.media], shard[self.media]
        place = np.arange(len(rows))
        starts = _first_of_run(shards, place)
        inside = _first_of_run(rows, place) - starts  # of its medium's first sample in the shard
        new = np.ones(len(rows), bool)
        new[1:] = (np.diff(shards) != 0) | (np.diff(inside // stretch) != 0)
        self.stretch = np.cumsum(new) - 1

    def stream(self, first: int, last: int, seed: Sequence[int]) -> np.ndarray:
        count = len(self._text) + len(self.media)
        found = [np.zeros(0, np.int64)]
        for turn in range(first // count, -(-last // count)) if count else ():
            whole = self._pass(np.random.Generator(np.random.PCG64([*seed, turn])))
            found.append(whole[max(0, first - turn * count) : last - turn * count])
        return np.concatenate(found)

    def _pass(self, rng: np.random.Generator) -> np.ndarray:
        stretches = int(self.stretch[-1]) + 1 if len(self.stretch) else 0
        media = self.media[np.argsort(rng.permutation(stretches)[self.stretch], kind="stable")]
        return interleaved([media, rng.permutation(self._text)])


def interleaved(streams: Sequence[np.ndarray]) -> np.ndarray:
    """Several streams as one, in which each is spread evenly; no draw is made."""
    streams = [s for s in streams if len(s)]
    if len(streams) < 2:
        return streams[0] if streams else np.zeros(0, np.int64)
    places = np.concatenate([(np.arange(len(s)) + 0.5) / len(s) for s in streams])
    return np.concatenate(streams)[np.argsort(places, kind="stable")]


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


def _uncrowded(stock: Stock, most: int) -> np.ndarray:
    """The rows of a stock, those of more samples than ``most`` taken out."""
    if not (stock.row >= 0).any():
        return stock.row
    uses = np.bincount(stock.row[stock.row >= 0])
    return np.where((stock.row >= 0) & (uses[stock.row] > most), -1, stock.row)


def _first_of_run(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """For each place the first one of its run of equal values."""
    new = np.ones(len(values), bool)
    new[1:] = np.diff(values) != 0
    return np.maximum.accumulate(np.where(new, place, 0)) if len(values) else place
