"""Follows a job: its log as it grows, to its end. A lost connection is a lost connection, not a dead job."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from raypipe.errors import ServiceError
from raypipe.submit.dashboard import TUNNEL, Busy, Dashboard, Unreachable

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
TAIL_CHARS = 20_000
T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """Seconds between looks. After ``silence`` in the log the cluster is asked whether it is still there."""

    first: float = 1.0
    longest: float = 30.0
    silence: float = 10.0
    patience: float = 900.0  # without an answer, before following is given up


@dataclass
class Log:
    """What of a job's log was shown: each character once, though every connection begins at the first."""

    show: Callable[[str], None]
    shown: int = 0
    tail: str = ""
    _passed: int = field(default=0, repr=False)

    def again(self) -> None:
        """A new connection, which tells the log from its beginning."""
        self._passed = 0

    def take(self, text: str) -> None:
        fresh = text[max(0, self.shown - self._passed) :]
        self._passed += len(text)
        if fresh:
            self.shown += len(fresh)
            self.tail = (self.tail + fresh)[-TAIL_CHARS:]
            self.show(fresh)


def follow(
    cluster: Dashboard, submission_id: str, log: Log, note: Callable[[str], None], pace: Pace | None = None
) -> dict[str, Any]:
    """Shows a job's log until the job has ended; the job as the cluster then tells it.

    Raises:
        ServiceError: no answer for ``pace.patience``, or the cluster no longer knows the job or the token.
    """
    pace = pace or Pace()
    pause, lost_at = pace.first, None
    while True:
        try:
            job = _run(_stream(cluster, submission_id, log, note, pace))
            if lost_at is not None:
                lost_at = None
                note("connected again")
            pause = pace.first
            if job["status"] in ENDED:
                _rest(cluster, submission_id, log)
                return job
        except (Unreachable, Busy) as fault:
            now = time.monotonic()
            if lost_at is None:
                lost_at = now
                note(f"{fault.message}; the job goes on there, trying again")
            if now - lost_at > pace.patience:
                raise ServiceError(
                    f"no answer from {cluster.address} for {pace.patience / 60:.0f} minutes; "
                    f"{submission_id} may well go on there",
                    f"{TUNNEL}; the same command then follows it",
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, pace.longest)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run``; a signal ends the work between two of its steps, then is heard as ever.

    Handlers here raise KeyboardInterrupt. Raised while aiohttp reads an answer, it is taken for a bad answer.
    """
    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if mine}
    heard: list[int] = []
    loop: asyncio.AbstractEventLoop | None = None
    task: asyncio.Task[Any] | None = None

    def hear(number: int, _: object) -> None:
        heard.append(number)
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: the work is over
                loop.call_soon_threadsafe(task.cancel)

    async def cancellable() -> T:
        nonlocal loop, task
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if heard and task is not None:
            task.cancel()
        return await work

    listened = [number for number, handler in before.items() if callable(handler)]
    try:
        for number in listened:
            signal.signal(number, hear)
        with contextlib.suppress(asyncio.CancelledError):
            return asyncio.run(cancellable())
    finally:
        for number in listened:
            signal.signal(number, before[number])
        for caught in heard:
            before[signal.Signals(caught)](caught, None)  # type: ignore[operator,misc]
    raise KeyboardInterrupt


async def _stream(
    cluster: Dashboard, submission_id: str, log: Log, note: Callable[[str], None], pace: Pace
) -> dict[str, Any]:
    """One connection: the log as it comes, until the cluster closes it or nothing answers any more."""
    import aiohttp

    told = False
    log.again()
    address = f"{cluster.address}/api/jobs/{submission_id}/logs/tail"
    try:
        async with (
            aiohttp.ClientSession(headers=cluster.headers) as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            waiting = asyncio.ensure_future(socket.receive())
            try:
                while True:
                    done, _ = await asyncio.wait({waiting}, timeout=pace.silence)
                    if not done:  # silent: ask, which fails where the way is dead
                        job = await asyncio.to_thread(cluster.job, submission_id)
                        if job["status"] == "PENDING" and not told:
                            told = True
                            note(
                                f"waiting for the cluster: {' '.join(str(job.get('message')).split())[:200]}"
                            )
                        continue
                    message = waiting.result()
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        break
                    log.take(message.data)
                    waiting = asyncio.ensure_future(socket.receive())
            finally:
                waiting.cancel()
    except (aiohttp.ClientError, OSError, TimeoutError) as fault:
        if isinstance(fault, aiohttp.WSServerHandshakeError) and 400 <= fault.status < 500:
            # The cluster answers, with no: asked about the job itself, it says why.
            return await asyncio.to_thread(cluster.job, submission_id)
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise Unreachable(f"the way to {cluster.address} is lost ({reason})", TUNNEL) from None
    return await asyncio.to_thread(cluster.job, submission_id)


def _rest(cluster: Dashboard, submission_id: str, log: Log) -> None:
    """What a connection that broke near the end did not show."""
    log.again()
    try:
        log.take(cluster.log(submission_id))
    except ServiceError:
        log.take("\n(the last lines of the log could not be fetched)\n")


def wait(cluster: Dashboard, submission_id: str, pace: Pace, at_most_s: float) -> dict[str, Any] | None:
    """The job once it has ended; None if it has not in this time, or nothing answers."""
    until = time.monotonic() + at_most_s
    while time.monotonic() < until:
        try:
            job = cluster.job(submission_id)
            if job["status"] in ENDED:
                return job
        except (Unreachable, Busy):
            pass
        time.sleep(min(pace.first, 1.0))
    return None
