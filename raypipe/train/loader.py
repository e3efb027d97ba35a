"""The batches of coming steps, made while the current one is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Ahead:
    """Makes the batches of coming steps while the current one is computed; its state is a step number."""

    def __init__(self, make: Callable[[int], Any], first: int, last: int, depth: int = 2) -> None:
        self._make, self._next, self._last = make, first, last
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._queue: list[Future[Any]] = []
        for _ in range(depth):
            self._submit()

    def take(self) -> Any:
        """The next step's batches; waits where they are not ready."""
        ready = self._queue.pop(0).result()
        self._submit()
        return ready

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self) -> None:
        if self._next < self._last:
            self._queue.append(self._pool.submit(self._make, self._next))
            self._next += 1
