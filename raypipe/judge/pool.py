"""The judge on a Ray cluster: a few async actors that share the allowed concurrency.

Actors are I/O bound and take a fraction of a CPU each, so they fit beside GPU work. Each reads the
key itself, on its own node: the key is in no task argument, runtime environment or log. A batch whose
actor dies is asked again by its successor, so on the wire a question is asked at least once; in the
ledger its verdict is written once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Future

import ray
from ray.exceptions import RayError, RayTaskError

from raypipe.errors import RaypipeError, ServiceError
from raypipe.judge.batch import Case, Judged, batches_in_flight, judge_batch
from raypipe.judge.client import Judge
from raypipe.settings import JudgeSettings

REQUESTS_PER_ACTOR = 64
MAX_ACTORS = 8
ACTOR_CPUS = 0.25
MAX_RESTARTS = 3


class JudgeActor:
    """One judge in an actor's event loop, made when the first batch comes."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._judge: Judge | None = None

    async def judge_batch(self, cases: Sequence[Case]) -> Judged:
        """As ``raypipe.judge.batch.judge_batch``; a missing key comes back as ``stop`` too."""
        try:
            self._judge = self._judge or Judge(self._settings)
        except RaypipeError as fault:
            return Judged((), fault)
        return await judge_batch(self._judge, cases)


class RayPool:
    """Judge actors on the cluster this process is connected to (see ``raypipe.cluster``).

    Args:
        settings: ``concurrency`` is the number of requests of all actors together.
        actors: how many; by default one for every 64 concurrent requests, 8 at most.
    """

    def __init__(self, settings: JudgeSettings, actors: int | None = None) -> None:
        shares = shares_of(settings.concurrency, actors)
        self.in_flight = sum(batches_in_flight(share) for share in shares)
        self._actors = [
            ray.remote(JudgeActor)
            .options(
                num_cpus=ACTOR_CPUS,
                max_concurrency=batches_in_flight(share) + 1,
                max_restarts=MAX_RESTARTS,
                max_task_retries=MAX_RESTARTS,
            )
            .remote(settings.model_copy(update={"concurrency": share}))
            for share in shares
        ]
        self._turn = itertools.cycle(self._actors)

    def submit(self, cases: Sequence[Case]) -> Future[Judged]:
        passed_on: Future[Judged] = Future()
        ref = next(self._turn).judge_batch.remote(list(cases))
        ref.future().add_done_callback(lambda done: _pass_on(done, passed_on))
        return passed_on

    def close(self) -> None:
        """Ends the actors, which gives back their CPUs."""
        for actor in self._actors:
            ray.kill(actor)


def shares_of(concurrency: int, actors: int | None = None) -> list[int]:
    """Splits the allowed requests over the actors, each at least one.

    >>> shares_of(8), shares_of(130), shares_of(5, actors=2)
    ([8], [44, 43, 43], [3, 2])
    """
    wanted = actors or -(-concurrency // REQUESTS_PER_ACTOR)
    count = max(1, min(wanted, MAX_ACTORS, concurrency))
    whole, rest = divmod(concurrency, count)
    return [whole + (1 if i < rest else 0) for i in range(count)]


def _pass_on(done: Future[Judged], to: Future[Judged]) -> None:
    fault = done.exception()
    if fault is None:
        to.set_result(done.result())
    elif isinstance(fault, RayError) and not isinstance(fault, RayTaskError):
        stop = ServiceError(
            f"a judge worker was lost ({type(fault).__name__})",
            "see `ray status` for nodes that died; the same command continues",
        )
        to.set_result(Judged((), stop))
    else:
        to.set_exception(fault)
