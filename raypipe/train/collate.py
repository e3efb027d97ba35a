"""Examples -> batches, and a global batch -> what each rank computes of it.

A row is one example or, packed, several. The rows of a global batch are made before they are shared out,
so what is computed does not depend on the number of workers.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from raypipe.model.pixels import Look
from raypipe.model.splice import Batch
from raypipe.records import MediumKind
from raypipe.text.chat import IGNORE
from raypipe.train.examples import Example

Row = tuple[Example, ...]


def collate(
    rows: Sequence[Row],
    dtype: torch.dtype | None,
    device: Any = "cpu",
    *,
    counts: bool = True,
    look: Look | None = None,
) -> Batch:
    """Right-padded batch of rows.

    Args:
        dtype: of the pixels; None leaves the frames as they are until ``shown``, which then is for the thread
            that computes: on a GPU frames of 8 bits are a quarter of what goes over the bus.
        look: how frames become pixels.
        counts: False leaves all labels out: such a batch keeps a rank without rows in step with the others.
    """
    shape = (len(rows), max(sum(len(e.encoded) for e in row) for row in rows))
    ids, segments, labels = (np.full(shape, number, np.int64) for number in (0, 0, IGNORE))
    for place, row in enumerate(rows):
        start = 0
        for number, example in enumerate(row, start=1):
            end = start + len(example.encoded)
            tokens, learned = example.encoded.arrays
            ids[place, start:end] = tokens
            segments[place, start:end] = number
            if counts and not example.fault:
                labels[place, start:end] = learned
            labels[place, start] = IGNORE  # nothing before it in its own segment foretells it
            start = end
    pixels: dict[MediumKind, torch.Tensor] = {}
    for kind in MediumKind:
        frames = [p for row in rows for e in row for k, p in e.pixels if k is kind]
        if frames:
            pixels[kind] = torch.from_numpy(joined(frames))
    names = tuple(tuple(e.id for e in row) for row in rows)
    ids_BL, segments_BL, labels_BL = (torch.from_numpy(made) for made in (ids, segments, labels))
    batch = Batch(ids_BL, segments_BL, labels_BL, pixels, names)
    return batch if dtype is None else shown(batch, look or Look(0), dtype, device)


def joined(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Frames behind each other: where they lie so in memory already, that memory itself."""
    base = frames[0].base
    ends = [f.__array_interface__["data"][0] + f.nbytes for f in frames]
    begins = [f.__array_interface__["data"][0] for f in frames]
    if base is None or ends[:-1] != begins[1:] or any(f.base is not base for f in frames):
        return np.concatenate(frames)
    first = (begins[0] - base.__array_interface__["data"][0]) // (base.nbytes // len(base))
    return base[first : first + sum(len(f) for f in frames)]


def shown(batch: Batch, look: Look, dtype: torch.dtype, device: Any) -> Batch:
    """A batch of frames on its device, the frames as pixels [N, 3, side, side]."""
    ids, segments, labels = (t.to(device) for t in (batch.ids_BL, batch.segments_BL, batch.labels_BL))
    pixels = {kind: look.pixels(frames, dtype, device) for kind, frames in batch.pixels.items()}
    return Batch(ids, segments, labels, pixels, batch.samples)


def packed(lengths: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """Packs samples into rows of at most ``most`` tokens: the longest first, each where it leaves least room.

    Returns:
        the places in ``lengths`` that share a row, ascending; the rows in the order of their longest samples'
        places, so that these stay near the rank that they were laid out for (``blocks.py``).
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # room left and number of each row, ascending
    for place in sorted(range(len(lengths)), key=lambda p: (-lengths[p], p)):
        at = bisect.bisect_left(free, (lengths[place], -1))
        if at == len(free):
            room, row = most, len(rows)
            rows.append([])
        else:
            room, row = free.pop(at)
        rows[row].append(place)
        bisect.insort(free, (room - lengths[place], row))
    return [tuple(sorted(row)) for row in sorted(rows)]  # the longest is still the first


def share(rows: int, rank: int, world: int) -> range:
    """Which rows of a global batch a rank takes: contiguous, over all ranks each row once."""
    return range(rows * rank // world, rows * (rank + 1) // world)


def shares(rows: int, rank: int, world: int, micro: int) -> list[range]:
    """The same, cut into micro-batches; an empty range is a stand-in.

    Every rank gets the same number of micro-batches.
    """
    most = max(len(share(rows, r, world)) for r in range(world))
    mine = share(rows, rank, world)
    return [
        range(min(mine.start + begin, mine.stop), min(mine.start + begin + micro, mine.stop))
        for begin in range(0, most, micro)
    ]
