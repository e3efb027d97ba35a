"""Senders on a Ray cluster: a few async actors that send what the driver lets through.

Actors wait for the network, so they ask for no CPU and fit beside GPU work. Each reads the key itself, on
its own node: the key is in no task argument, runtime environment or log. Ray never repeats a call by itself:
whether a call whose actor died is sent again, the gate decides, as it does for a broken connection.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from raypipe.errors import RaypipeError, ServiceError
from raypipe.judge.client import Call, Client, Fault, Kind, Reply
from raypipe.settings import JudgeSettings

CALLS_PER_ACTOR = 64
MAX_ACTORS = 8
MAX_RESTARTS = 3
ACTOR_CPUS = 0.0
GRACE_S = 30.0  # beyond the time that a call may take, before its actor counts as stuck


class JudgeActor:
    """A client in an actor's event loop, made when it is first needed."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._client: Client | None = None

    async def ready(self) -> RaypipeError | None:
        """Why nothing can be sent from this node, such as a missing key; None where it can."""
        try:
            self._client = self._client or Client(self._settings)
        except RaypipeError as fault:
            return fault
        return None

    async def send(self, call: Call) -> Reply | Fault:
        """As ``Client.send``."""
        fault = await self.ready()
        if fault is not None or self._client is None:
            return Fault(Kind.CLOSED, f"cannot be asked from one of the nodes: {fault}")
        return await self._client.send(call)


def actors_for(concurrency: int) -> int:
    """How many actors send so many calls at once."""
    return min(MAX_ACTORS, -(-concurrency // CALLS_PER_ACTOR))


class RaySender:
    """Actors on the cluster this process is connected to (see ``raypipe.cluster``).

    Args:
        settings: the judge.
        actors: how many; by default one for every 64 concurrent calls, 8 at most.

    Raises:
        RequestError: an actor's node has no key.
        ServiceError: no actor could be started.
    """

    def __init__(self, settings: JudgeSettings, actors: int | None = None) -> None:
        count = actors or actors_for(settings.concurrency)
        options = {
            "num_cpus": ACTOR_CPUS,
            "max_concurrency": settings.concurrency + 1,
            "max_restarts": MAX_RESTARTS,
            "max_task_retries": 0,
        }
        self._actors = [ray.remote(JudgeActor).options(**options).remote(settings) for _ in range(count)]
        self._turn = itertools.count()
        self._patience_s = settings.timeout_s + GRACE_S
        try:
            faults = [fault for fault in ray.get([a.ready.remote() for a in self._actors]) if fault]
        except RayError as fault:
            self._end()
            why = f"a judge worker did not start ({type(fault).__name__})"
            raise ServiceError(why, "see `ray status`") from None
        if faults:
            self._end()
            raise faults[0]

    async def send(self, call: Call) -> Reply | Fault:
        actor = self._actors[next(self._turn) % len(self._actors)]
        try:
            async with asyncio.timeout(self._patience_s):
                return await asyncio.wrap_future(actor.send.remote(call).future())
        except RayTaskError:
            raise  # a bug, not a lost worker
        except TimeoutError:
            return Fault(Kind.PASSING, "a judge worker does not answer", paid=True)
        except RayActorError as fault:
            return Fault(Kind.PASSING, f"a judge worker was lost ({type(fault).__name__})", paid=True)

    async def close(self) -> None:
        """Ends the actors."""
        self._end()

    def workers(self) -> list[Any]:
        return list(self._actors)

    def _end(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
