"""Windows of samples -> global batches whose slots follow the places of the media.

The slots of a global batch are cut into blocks. A medium's samples all go into one block, and a stretch of
media that lie side by side into the same one. Ranks take contiguous slots (``share``), so up to that many
nodes each read a medium once, and many with one request. The stretches are dealt out by their mean length,
so that the blocks, and with them the ranks, have like work.
"""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass

import numpy as np

BLOCKS = 16


@dataclass(frozen=True)
class Batches:
    """The batches of an epoch: samples one after the other, and the end of each batch in them.

    ``windows`` holds the end, counted in batches, of each stretch of batches that were made together.
    """

    numbers: np.ndarray
    ends: list[int]
    windows: list[int]

    def batch(self, at: int) -> np.ndarray:
        return self.numbers[self.ends[at - 1] if at else 0 : self.ends[at]]


class Blocks:
    """Makes the batches of one epoch out of its windows.

    Args:
        row: of each sample, the stored row of its medium, numbered in the order of storage; -1 for none.
        stretch: of each sample, the number of the stretch of rows that its medium belongs to.
        kind: of each sample; a batch holds one kind, but for the last ones of the epoch.
        length: of each sample.
        grouped: batches are of like length, and are shuffled within their window.
    """

    def __init__(
        self,
        row: np.ndarray,
        stretch: np.ndarray,
        kind: np.ndarray,
        length: np.ndarray,
        global_batch: int,
        rng: np.random.Generator,
        *,
        grouped: bool,
    ) -> None:
        self._row, self._stretch, self._kind, self._length = row, stretch, kind, length
        self._rng, self._grouped = rng, grouped
        self._size, self._blocks = global_batch, min(BLOCKS, global_batch)
        self._ends = global_batch * np.arange(self._blocks + 1) // self._blocks
        self._share = np.diff(self._ends)
        self._block_of = np.full(int(row.max(initial=-1)) + 1, -1, np.int16)
        self._seen = np.full(len(self._block_of), -2, np.int64)  # in which window it was placed last
        self._window = 0
        # What of each kind is waiting for a batch, and the block that it belongs to, oldest first.
        none = np.zeros(0, np.int64)
        self._waiting = {int(k): (none, none) for k in np.unique(kind)}
        self._made: list[np.ndarray] = []
        self._windows: list[int] = []

    def add(self, window: np.ndarray) -> None:
        """Takes the samples of a window in; makes the batches for which every block has its share."""
        shuffled = self._rng.permutation(window)
        made = []
        for kind, (samples, blocks) in self._waiting.items():
            new = shuffled[self._kind[shuffled] == kind]
            assigned = self._assign(new, blocks)
            made += self._full(kind, np.concatenate([samples, new]), np.concatenate([blocks, assigned]))
        self._window += 1
        self._keep(made)

    def close(self) -> Batches:
        """What waits becomes batches, too: whole ones of one kind, then the rest of all kinds."""
        made, rests = [], []
        for samples, blocks in self._waiting.values():
            samples, blocks = self._ranked(samples, blocks)
            cut = self._cut(samples, blocks)
            whole = len(samples) // self._size
            made += cut[:whole]
            rests += cut[whole:]
        self._keep(made)
        rest = np.concatenate(rests) if rests else np.zeros(0, np.int64)
        self._keep([rest[s : s + self._size] for s in range(0, len(rest), self._size)], shuffle=False)
        numbers = np.concatenate(self._made) if self._made else np.zeros(0, np.int64)
        ends = np.cumsum([len(b) for b in self._made]).tolist()
        return Batches(numbers, ends, self._windows)

    def _keep(self, made: list[np.ndarray], *, shuffle: bool = True) -> None:
        if self._grouped and shuffle:
            made = [made[i] for i in self._rng.permutation(len(made))]
        self._made += made
        if made:
            self._windows.append(len(self._made))

    def _assign(self, new: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        """The block of each new sample, so that all blocks together come to whole batches."""
        rows = self._row[new]
        out = np.full(len(new), -1, np.int64)
        media = np.flatnonzero(rows >= 0)
        known = media[self._seen[rows[media]] >= self._window - 1]
        out[known] = self._block_of[rows[known]]
        have = np.bincount(np.concatenate([waiting, out[known]]), minlength=self._blocks)
        want = self._wanted(len(waiting) + len(new))
        unknown = media[out[media] < 0]
        if len(unknown):
            units, first, of_unit, uses = np.unique(
                rows[unknown], return_index=True, return_inverse=True, return_counts=True
            )
            tokens = np.bincount(of_unit.reshape(-1), self._length[new[unknown]])
            block = _dealt(self._stretch[new[unknown[first]]], uses, tokens, want - have)
            out[unknown] = block[of_unit.reshape(-1)]
            self._block_of[units] = block
            have = have + np.bincount(out[unknown], minlength=self._blocks)
        self._seen[rows[media]] = self._window
        text = np.flatnonzero(rows < 0)
        if len(text):
            lacking = np.repeat(np.arange(self._blocks), np.maximum(want - have, 0))
            out[text] = lacking[np.arange(len(text)) * len(lacking) // len(text)]
        return out

    def _wanted(self, total: int) -> np.ndarray:
        """How many of ``total`` samples each block is to have: of each whole batch, and of the rest."""
        whole, rest = divmod(total, self._size)
        return self._share * whole + np.diff(self._ends * rest // self._size)

    def _full(self, kind: int, samples: np.ndarray, blocks: np.ndarray) -> list[np.ndarray]:
        """As many batches as every block has its share for; what is over keeps waiting."""
        counts = np.bincount(blocks, minlength=self._blocks)
        number = int((counts // self._share).min())
        taken = _rank(blocks) < number * self._share[blocks]
        self._waiting[kind] = (samples[~taken], blocks[~taken])
        if not number:
            return []
        samples, blocks = self._sorted(samples[taken], blocks[taken])
        if self._grouped and not self._has_media(samples):
            return list(
                samples[np.argsort(-self._length[samples], kind="stable")].reshape(number, self._size)
            )
        batch, inside = np.divmod(_rank(blocks), self._share[blocks])
        out = np.empty((number, self._size), np.int64)
        out[batch, self._ends[blocks] + inside] = samples
        return list(out)

    def _ranked(self, samples: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What waits at the end, in the order in which it is cut: by length, or each block in its turn."""
        samples, blocks = self._sorted(samples, blocks)
        turn = np.lexsort((blocks, _rank(blocks) / self._share[blocks]))
        samples, blocks = samples[turn], blocks[turn]
        if self._grouped:
            turn = np.argsort(-self._length[samples], kind="stable")
            samples, blocks = samples[turn], blocks[turn]
        return samples, blocks

    def _cut(self, samples: np.ndarray, blocks: np.ndarray) -> list[np.ndarray]:
        """Batches of samples as they follow each other; the last may be smaller."""
        cuts = [slice(at, at + self._size) for at in range(0, len(samples), self._size)]
        if self._grouped and not self._has_media(samples):
            return [samples[cut] for cut in cuts]
        return [self._placed(samples[cut], blocks[cut]) for cut in cuts]

    def _placed(self, samples: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """One batch, perhaps a smaller one: each sample in a slot of its block, or in one that is left."""
        ends = self._ends * len(samples) // self._size
        rank = _rank(blocks)
        own = rank < np.diff(ends)[blocks]
        out = np.full(len(samples), -1, np.int64)
        out[ends[blocks[own]] + rank[own]] = samples[own]
        out[out < 0] = samples[~own][np.argsort(blocks[~own], kind="stable")]
        return out

    def _has_media(self, samples: np.ndarray) -> bool:
        return bool((self._row[samples] >= 0).any())

    def _sorted(self, samples: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By block, and in each by length where batches are of like length."""
        keys = (-self._length[samples], blocks) if self._grouped else (blocks,)
        turn = np.lexsort(keys)
        return samples[turn], blocks[turn]


def _rank(blocks: np.ndarray) -> np.ndarray:
    """How many of the same block come before each."""
    turn = np.argsort(blocks, kind="stable")
    counts = np.bincount(blocks) if len(blocks) else np.zeros(1, np.int64)
    before = np.cumsum(counts) - counts
    out = np.empty(len(blocks), np.int64)
    out[turn] = np.arange(len(blocks)) - before[blocks[turn]]
    return out


def _dealt(stretch: np.ndarray, uses: np.ndarray, tokens: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The block of each medium: stretch by stretch, the longest samples first, to the block with most room.

    Args:
        stretch: of each medium, in the order of storage.
        uses: samples of each medium, and ``tokens`` of all of them.
        room: samples that each block is to get.
    """
    starts = np.flatnonzero(np.diff(stretch, prepend=stretch[0] - 1))
    mean = np.add.reduceat(tokens, starts) / np.add.reduceat(uses, starts)
    ends = [*starts[1:].tolist(), len(stretch)]
    before = np.concatenate([[0], np.cumsum(uses)]).tolist()
    heap = [(-int(left), block) for block, left in enumerate(room)]
    heapq.heapify(heap)
    out = np.empty(len(stretch), np.int64)
    for piece in np.argsort(-mean, kind="stable").tolist():
        at, end = int(starts[piece]), ends[piece]
        while at < end:
            left, block = heap[0]
            full = before[at] - left  # where the block has all that it is to get
            upto = min(end, bisect.bisect_right(before, full, at) - 1)
            # A medium of which half fits is taken, so that no block falls behind by more than that.
            if upto < at + 1 or (upto < end and before[upto] + before[upto + 1] <= 2 * full):
                upto += 1
            out[at:upto] = block
            heapq.heapreplace(heap, (left + before[upto] - before[at], block))
            at = upto
    return out
