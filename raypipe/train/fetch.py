"""Media on object storage, fetched before the steps that need them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from raypipe.train.mixture import Mixture
from raypipe.train.order import Order

Own = Callable[[Sequence[int]], Sequence[int]]

HELD_RANKS = 8  # ranks of a node, at most, whose coming rows must fit into its cache together


class Fetcher:
    """Brings what this rank's coming steps need into the node's cache, a window at a time.

    The samples of a window lie near each other in storage and are shuffled among its steps, so all of its
    rows are fetched at once, by few requests; the next window's while this one is trained on.

    Args:
        own: the samples of a global batch -> those that this rank computes.
        limit: bytes of the cache; a window that does not fit twice, for all ranks, is fetched in pieces.
    """

    def __init__(self, mixture: Mixture, order: Order, own: Own, world: int, limit: int, last: int) -> None:
        self._mixture, self._order, self._own, self._last = mixture, order, own, last
        self._room = limit // (4 * min(world, HELD_RANKS))
        self._needed, self._stop = not mixture.is_local, threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        self._begun: dict[int, tuple[range, Future[None]]] = {}

    def before(self, step: int) -> None:
        """Returns when what a step needs is there; begins to fetch what comes after it.

        Raises:
            ServiceError: the storage or the cache's disk refuses.
        """
        if not self._needed:
            return
        span, fetched = self._begin(step)
        self._begun = {s: b for s, b in self._begun.items() if b[0].stop > step}
        if span.stop < self._last:
            self._begin(span.stop)
        fetched.result()

    def close(self) -> None:
        """Ends the threads, after the requests that are under way."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, step: int) -> tuple[range, Future[None]]:
        for span, fetched in self._begun.values():
            if step in span:
                return span, fetched
        span, rows = self._span(step)
        self._begun[step] = (span, self._pool.submit(self._mixture.fetch, rows, self._stop))
        return self._begun[step]

    def _span(self, first: int) -> tuple[range, np.ndarray]:
        """The steps from this one on that are fetched together, and the rows that they need of this rank."""
        columns = self._mixture.columns
        window = self._order.together(first)
        needed: np.ndarray = np.zeros(0, np.int64)
        for step in range(first, min(window.stop, self._last)):
            more = np.union1d(needed, columns.rows_of(self._own(self._order.batch(step))))
            if step > first and int(columns.row_length[more].sum()) > self._room:
                return range(first, step), needed
            needed = more
        return range(first, min(window.stop, self._last)), needed
