"""The batches of coming steps, made while the current one is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import torch

from raypipe.settings import StageSettings
from raypipe.train.examples import Examples
from raypipe.train.fetch import Fetcher
from raypipe.train.order import Order
from raypipe.train.work import Work, Worker, begin_work, own

CLOSE_S = 30.0  # so long a fault waits for what the loader is just doing
T = TypeVar("T")


class Steps:
    """Step -> this rank's work; media on object storage are fetched a window ahead.

    Args:
        last: the step before which the stage ends.
    """

    def __init__(
        self,
        examples: Examples,
        order: Order,
        worker: Worker,
        settings: StageSettings,
        dtype: torch.dtype | None,
        last: int,
    ) -> None:
        self._examples, self._order, self._worker, self.look = examples, order, worker, examples.look
        self._micro, self._dtype = settings.micro_batch, dtype
        limit = int(settings.cache.gib * (1 << 30))
        self._fetcher = Fetcher(examples.mixture, order, self._own, worker.world, limit, last)

    def __call__(self, step: int) -> Callable[[], Work]:
        """Begins a step's work; the call that is returned ends it."""
        self._fetcher.before(step)
        numbers, epoch = self._order.batch(step), self._order.epoch_of(step)
        return begin_work(self._examples, numbers, self._worker, self._micro, self._dtype, epoch=epoch)

    def _own(self, numbers: Sequence[int]) -> list[int]:
        return own(self._examples, numbers, self._worker.rank, self._worker.world)

    def close(self) -> None:
        """Stops what is fetched and decoded for steps that nobody takes any more."""
        self._fetcher.close()
        self._examples.close()


class Ahead(Generic[T]):
    """Makes the batches of coming steps while the current one is computed; its state is a step number.

    At most ``depth`` steps are made and not taken, and one more is begun: while its pictures are decoded by
    other threads, the one before is ended. A fault comes out of the ``take`` of its own step.

    Args:
        begin: begins the work of a step and returns what ends it; both are called in the order of the steps,
            in one thread. What it has by the name of ``close`` is called at the end.
    """

    def __init__(
        self, begin: Callable[[int], Callable[[], T]], first: int, last: int, depth: int = 2
    ) -> None:
        self._begin, self._next, self._last = begin, first, last
        self._begun: dict[int, Future[Callable[[], T]]] = {}
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._queue: list[Future[T]] = []
        for _ in range(depth):
            self._submit()

    def take(self) -> T:
        """The next step's batches; waits where they are not ready."""
        ready = self._queue.pop(0).result()
        self._submit()
        return ready

    def close(self) -> None:
        """Ends the thread; nothing more is made."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        end = getattr(self._begin, "close", None)
        if end:
            end()
        wait([f for f in self._queue if not f.cancelled()], timeout=CLOSE_S)
        self._queue.clear()

    def _submit(self) -> None:
        if self._next < self._last:
            self._queue.append(self._pool.submit(self._made, self._next))
            self._next += 1

    def _made(self, step: int) -> T:
        for near in (step, step + 1):
            if near not in self._begun and near < self._last:
                self._begun[near] = attempt(self._begin, near)
        return self._begun.pop(step).result()()


def attempt(act: Callable[[int], T], step: int) -> Future[T]:
    """What a call returned or raised, to be had later."""
    kept: Future[T] = Future()
    try:
        kept.set_result(act(step))
    except Exception as fault:
        kept.set_exception(fault)
    return kept
