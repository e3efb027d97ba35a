"""Examples -> batches, and a global batch -> what each rank computes of it.

A row is one example or, packed, several. The rows of a global batch are made before they are shared out,
so what is computed does not depend on the number of workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from raypipe.model.pixels import normalised
from raypipe.model.splice import Batch
from raypipe.records import MediumKind
from raypipe.text.chat import IGNORE
from raypipe.train.examples import Example

Row = tuple[Example, ...]


def collate(rows: Sequence[Row], dtype: torch.dtype, device: Any = "cpu", *, counts: bool = True) -> Batch:
    """Right-padded batch of rows.

    Args:
        counts: False leaves all labels out: such a batch keeps a rank without rows in step with the others.
    """
    length = max(sum(len(e.encoded.ids) for e in row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORE, dtype=torch.long)
    for place, row in enumerate(rows):
        start = 0
        for number, example in enumerate(row, start=1):
            end = start + len(example.encoded.ids)
            ids[place, start:end] = torch.tensor(example.encoded.ids)
            segments[place, start:end] = number
            if counts and not example.fault:
                labels[place, start:end] = torch.tensor(example.encoded.labels)
            labels[place, start] = IGNORE  # nothing before it in its own segment foretells it
            start = end
    pixels: dict[MediumKind, torch.Tensor] = {}
    for kind in MediumKind:
        frames = [p for row in rows for e in row for k, p in e.pixels if k is kind]
        if frames:
            pixels[kind] = normalised(np.concatenate(frames), dtype, device)
    names = tuple(tuple(e.id for e in row) for row in rows)
    return Batch(ids.to(device), segments.to(device), labels.to(device), pixels, names)


def shares(rows: int, rank: int, world: int, micro: int) -> list[range]:
    """Which rows of a global batch a rank takes in each micro-batch; an empty range is a stand-in.

    Every rank gets the same number of micro-batches, contiguous rows, and over all ranks each row once.
    """
    ends = [rows * r // world for r in range(world + 1)]
    most = max(b - a for a, b in itertools.pairwise(ends))
    first, last = ends[rank], ends[rank + 1]
    return [
        range(min(first + start, last), min(first + start + micro, last)) for start in range(0, most, micro)
    ]
