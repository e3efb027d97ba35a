"""Samples as the order sees them, made up: no shard is needed to ask for an order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raypipe.train.mixture import IMAGE, TEXT, VIDEO
from raypipe.train.order import Order, Stock

KINDS = (TEXT, IMAGE, VIDEO)


def stock(
    kinds: Sequence[int],
    lengths: Sequence[int] | None = None,
    *,
    per_medium: int = 1,
    per_shard: int = 64,
    parts: Sequence[int] | None = None,
) -> Stock:
    """A stock of samples of the given kinds.

    Args:
        per_medium: so many samples, one after the other, share a medium.
        parts: samples of each part; None: one part holds all.
    """
    count, kind = len(kinds), np.asarray(kinds, np.int8)
    row = np.where(kind != TEXT, np.arange(count) // per_medium, -1)
    part = np.repeat(np.arange(len(parts)), parts) if parts else np.zeros(count, np.int64)
    length = np.asarray(lengths) if lengths is not None else np.ones(count, np.int64)
    return Stock(np.arange(count), part, kind, length, row, np.where(row >= 0, row // per_shard, -1))


def plain(count: int, size: int, seed: int, **more) -> Order:
    """The order of videos, one sample each."""
    return Order(stock([VIDEO] * count), [1.0], size, seed, **more)


def epoch_of(order: Order, epoch: int) -> list[tuple[int, ...]]:
    return [order.batch(step) for step in order.steps(epoch)]
