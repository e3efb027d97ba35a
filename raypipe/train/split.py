"""Which samples train and which are held out for validation, decided medium by medium."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypipe.errors import RequestError
from raypipe.settings import StageSettings
from raypipe.train.mixture import Columns, Mixture


@dataclass(frozen=True)
class Split:
    """Numbers of the samples of a mixture, ascending: those that train, and those that are held out."""

    train: np.ndarray
    held: np.ndarray


def split(mixture: Mixture, settings: StageSettings) -> Split:
    """Holds out ``validation.fraction`` of the media, and of the samples of text alone.

    A medium is held out by a hash of its key and the seed, a sample of text by that of its id, so adding
    data moves nothing back. A sample with any held medium is held out. Names that lead to one stored row
    are one medium, and so are equal names of two parts: what is held under one name trains under none.

    Raises:
        RequestError: nothing is left to train on.
    """
    count, fraction = len(mixture), settings.validation.fraction
    if not fraction:
        return Split(np.arange(count), np.zeros(0, np.int64))
    columns = mixture.columns
    chosen = _held_names(columns, fraction, settings.seed)
    held = np.zeros(count, bool)
    of_use = np.repeat(np.arange(count), np.diff(columns.starts))
    held[of_use[chosen[columns.keys]]] = True
    text = np.flatnonzero(np.diff(columns.starts) == 0)
    held[text] = _chosen(columns.ids.take(pa.array(text)), fraction, settings.seed)
    if held.all():
        raise RequestError(
            f"validation.fraction={fraction} leaves nothing to train on", "lower it, or prepare more data"
        )
    return Split(np.flatnonzero(~held), np.flatnonzero(held))


def _held_names(columns: Columns, fraction: float, seed: int) -> np.ndarray:
    """Whether each name is held, carried along until no name shares a stored row with a held one."""
    held = _chosen(columns.names, fraction, seed)
    while True:
        rows = np.zeros(len(columns.row_offset), bool)
        rows[columns.rows[held[columns.keys]]] = True
        more = held.copy()
        more[columns.keys[rows[columns.rows]]] = True
        if (more == held).all():
            return held
        held = more


def _chosen(names: pa.Array | pa.ChunkedArray, fraction: float, seed: int) -> np.ndarray:
    """Whether the hash of each name falls into the first ``fraction`` of all hashes."""
    salt, below = str(seed).encode(), int(fraction * 2**64)
    each = (
        int.from_bytes(
            hashlib.blake2b(n.encode(errors="surrogatepass"), digest_size=8, key=salt).digest(), "big"
        )
        for n in names.to_pylist()
    )
    return np.fromiter((value < below for value in each), bool, len(names))
