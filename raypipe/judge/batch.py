"""Batches of answers through one judge, in this process. No Ray here.

A pool takes a batch and gives back a future of what became of it; ``LocalPool`` judges in a thread
of this process, ``raypipe.judge.pool.RayPool`` on a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from raypipe.errors import RaypipeError
from raypipe.grading.rubrics import rubric_named
from raypipe.judge.client import Judge
from raypipe.records import Prediction, Verdict
from raypipe.settings import JudgeSettings

BATCH = 64  # answers a batch, and so at most verdicts a ledger segment (questions may share one)
CLOSE_S = 10.0


@dataclass(frozen=True)
class Case:
    """An answer to judge and the name of the rubric to judge it by."""

    prediction: Prediction
    rubric: str


@dataclass(frozen=True)
class Judged:
    """What became of a batch: the verdicts there are, and why the run has to stop, if it has to."""

    verdicts: tuple[Verdict, ...]
    stop: RaypipeError | None = None


class Pool(Protocol):
    """Judges batches, several at a time."""

    in_flight: int  # batches that keep it busy

    def submit(self, cases: Sequence[Case]) -> Future[Judged]: ...

    def close(self) -> None: ...


def batches_in_flight(concurrency: int) -> int:
    """How many batches keep ``concurrency`` requests busy while one batch waits for its last reply.

    So at most this many batches, answered but not committed, are asked and paid again after a crash.
    """
    return math.ceil(concurrency / BATCH) + 1


async def judge_batch(judge: Judge, cases: Sequence[Case]) -> Judged:
    """Judges a batch; when the run has to stop, what was judged until then is kept."""
    tasks = [asyncio.create_task(judge.judge(c.prediction, rubric_named(c.rubric))) for c in cases]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    faults = [r for r in results if isinstance(r, Exception)]
    for fault in faults:
        if not isinstance(fault, RaypipeError):
            raise fault
    stop = next((f for f in faults if isinstance(f, RaypipeError)), None)
    return Judged(tuple(r for r in results if isinstance(r, Verdict)), stop)


class LocalPool:
    """One judge in an event loop of its own thread.

    Judging waits for the network, so one process keeps a few hundred requests going; and it works
    where the caller has an event loop already.

    Raises:
        RequestError: no key, or a bad address.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.in_flight = batches_in_flight(settings.concurrency)
        self._judge = Judge(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def submit(self, cases: Sequence[Case]) -> Future[Judged]:
        return self._run(judge_batch(self._judge, cases))

    def close(self) -> None:
        """Gives up what is still being asked and closes the connections."""
        with contextlib.suppress(TimeoutError):
            self._run(self._give_up()).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _give_up(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._judge.close()
