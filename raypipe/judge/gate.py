"""The governor in an event loop: waits until a call may be sent, and stops all of them at once.

There is one gate for all senders of a run, in the process that hands out the work, so a limit holds over
all actors, and a dead actor keeps nothing: its call fails here, and the permit with it comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raypipe.errors import RaypipeError, ServiceError
from raypipe.judge.governor import CeilingReached, Cost, Ended, Failed, Governor, Permit, TooSlow, Wait


class Gate:
    """Made and used in one event loop.

    Args:
        who: the judge, for messages.
        on_reserve: called with what the run will have spent at most, before a call is let through.
    """

    def __init__(self, governor: Governor, who: str, on_reserve: Callable[[float], None]) -> None:
        self.governor = governor
        self._who, self._on_reserve = who, on_reserve
        self._turn = asyncio.Lock()  # first come, first served
        self._changed = asyncio.Event()
        self._stop: RaypipeError | None = None

    @property
    def stopped(self) -> RaypipeError | None:
        return self._stop

    def stop(self, why: RaypipeError) -> None:
        """Lets nobody through any more; the first reason stays."""
        self._stop = self._stop or why
        self._changed.set()

    async def enter(self, most: Cost) -> Permit:
        """Waits for a permit.

        Raises:
            RaypipeError: the run was stopped, or has to be: the money ceiling is reached.
        """
        clock = asyncio.get_running_loop()
        async with self._turn:
            while True:
                if self._stop:  # raised once for each question that waits: it must not gather their frames
                    raise self._stop.with_traceback(None)
                self._changed.clear()
                try:
                    found = self.governor.ask(clock.time(), most)
                except CeilingReached:
                    self.stop(self._ceiling(most))
                    continue
                if isinstance(found, Wait):
                    await self._wait(found, clock.time())
                    continue
                try:
                    self._on_reserve(self.governor.at_most_usd)
                    return found
                except RaypipeError as fault:  # what cannot be written down is not spent
                    self.governor.settle(clock.time(), found, Failed())
                    self.stop(fault)

    def leave(self, permit: Permit, ended: Ended) -> None:
        """Gives a permit back."""
        try:
            self.governor.settle(asyncio.get_running_loop().time(), permit, ended)
        except TooSlow as fault:
            self.stop(ServiceError(f"{self._who} {fault}", "run the same command later; it continues"))
        self._changed.set()
        try:
            self._on_reserve(self.governor.at_most_usd)
        except RaypipeError as fault:
            self.stop(fault)

    async def _wait(self, wait: Wait, now: float) -> None:
        timeout = None if wait.until == float("inf") else max(0.0, wait.until - now)
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    def _ceiling(self, most: Cost) -> ServiceError:
        spent, ceiling = self.governor.spent_usd, self.governor.limits.max_usd
        return ServiceError(
            f"the ceiling of {ceiling:g} USD for this run's judge is reached: {spent:.4f} USD are spent, and "
            f"the next call may cost {most.usd:.4f} USD; all verdicts so far are committed",
            "raise judge.max_usd; the same command continues",
        )
