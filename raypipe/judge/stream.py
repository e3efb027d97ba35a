"""Judges answers while others are still being made.

Answers come in by ``add``, which returns at once. What the ledger, other runs or the cache know is taken
over; the rest is asked by ``concurrency`` workers in an event loop of a thread of its own. A worker takes its
next case only when the verdict on the last one is durable, so a crash makes at most as many cases be paid
twice as there are workers.

A verdict belongs to a snapshot of the judge, as the endpoint reports it. When the endpoint begins to report
another one, the run stops, or what the older one judged is judged again (``new_snapshot``): a score never
mixes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from raypipe.errors import RaypipeError, RequestError, ServiceError
from raypipe.judge.asker import Asker
from raypipe.judge.book import Book, Entry
from raypipe.judge.cache import VerdictCache
from raypipe.judge.case import RubricOf
from raypipe.judge.client import Call, Client, Fault, Reply, Sender
from raypipe.judge.endpoint import base_url_of, host_of
from raypipe.judge.gate import Gate
from raypipe.judge.gauges import Counted, Told
from raypipe.judge.governor import Governor, Limits
from raypipe.judge.log import VerdictLog
from raypipe.judge.rubric_files import rubrics_of
from raypipe.records import Outcome, Prediction, Verdict
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store
from raypipe.store.run import Progress

CLOSE_S = 10.0
STEP = 0.02  # of the ceiling: how far ahead of what is spent it is written on S3
SPREAD_S = (
    0.005  # between the starts of workers: replies that all come at once wait for each other, each round
)


class JudgeStream:
    """Judges the answers of one run.

    Args:
        run_store: the run; its ledger ``verdicts`` is read and added to.
        rubric_of: what a benchmark asks a judge, by its name: the name of a rubric, a ``JudgedBy``, or None.
        settings: the judge.
        use_ray: send from Ray actors; False: from a thread of this process.
        known: verdicts of other runs; those with the same content and judge are taken over for free.
        progress: called with questions settled and questions to settle so far, from another thread.
        at_once: see now that the judge can be asked, and not when the first answer has to be.

    Raises:
        RequestError: no such rubric file, no key, a bad address, a ceiling without a price.
        ServiceError: the disk or the service refused.
    """

    def __init__(
        self,
        run_store: Store,
        rubric_of: RubricOf,
        settings: JudgeSettings,
        *,
        use_ray: bool = True,
        known: Iterable[Verdict] = (),
        progress: Progress | None = None,
        at_once: bool = True,
    ) -> None:
        check(settings)
        self._settings, self._use_ray = settings, use_ray
        self._progress = progress or (lambda done, total: None)
        self._cache = VerdictCache(settings) if settings.cache else None
        rubrics = rubrics_of(settings)
        self._log = VerdictLog(run_store, STEP * (settings.max_usd or 0.0))
        self._book = Book(self._log, rubric_of, rubrics, settings, known, self._cache)
        self._told = Told(run_store.root, settings)
        self._lock = threading.RLock()  # the book is used by the caller's thread and by the loop's
        self._asking: _Asking | None = None
        self._heard: _Heard | None = None
        self._governor: Governor | None = None
        self._fault: ServiceError | None = None
        self._closed = False
        if at_once:
            try:
                self._start()
            except BaseException:
                self._log.close()
                raise

    def __enter__(self) -> JudgeStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def spent_usd(self) -> float:
        """What all starts of the run have paid so far, at most."""
        return self._governor.spent_usd if self._governor else 0.0

    @property
    def silence(self) -> ServiceError | None:
        """Why the judge counts as down: this start asked, and no call was answered; None: it is not."""
        return self._heard.silence(self._settings) if self._heard else None

    def add(self, predictions: Sequence[Prediction]) -> None:
        """Hands over answers; at most one per question and model under test.

        What is no answer (medium bad, generation failed) and what needs no judge is left out.

        Raises:
            RequestError: no such rubric, or, without ``at_once``, what the constructor would say.
        """
        if self._fault:
            return
        try:
            with self._lock:
                todo = self._book.add(predictions)
        except ServiceError as fault:
            self._fault = fault
            if self._asking is not None:
                self._asking.stop(fault)
            return
        if todo and self._asking is None:
            self._start()
        self._tell()
        if todo and self._asking is not None:
            self._asking.put(todo)

    def finish(self) -> list[Verdict]:
        """Waits until all answers are judged.

        Returns:
            One verdict for each question and rubric, in the order in which they were added; see the outcome
            of each.

        Raises:
            ServiceError: the endpoint refuses the run or is down, the money ceiling is reached, or another
                judge answers than before. What was judged is committed; a second start continues. Where an
                earlier start has verdicts, these are returned, and ``silence`` says that it is down now.
        """
        try:
            if self._asking is not None:
                self._asking.wait()
            if self._fault:
                raise self._fault
            verdicts = self._book.verdicts()
            if self.silence and all(v.outcome is not Outcome.OK for v in verdicts):
                raise self.silence
        finally:
            self.close()
        self._book.write_view(verdicts)
        return verdicts

    def close(self) -> None:
        """Ends at once: what is being asked is given up, what was judged is committed."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._asking is not None:
                self._asking.close()
                self._told.over()
        finally:
            self._log.close()
            if self._cache:
                self._cache.add(self._book.paid())

    def _start(self) -> None:
        limits = Limits(
            self._settings.concurrency,
            self._settings.requests_per_minute,
            self._settings.tokens_per_minute,
            self._settings.max_usd,
        )
        governor = self._governor = Governor(limits, self._log.spent_usd())
        before = governor.spent_usd

        def reserve(usd: float) -> None:
            self._told.governed(governor)
            self._log.reserve(usd - before)

        self._heard = _Heard(Counted(_sender(self._settings, self._use_ray), self._told))
        self._asking = _Asking(
            self._heard,
            self._settings,
            governor,
            reserve=reserve,
            commit=self._commit,
        )

    def _commit(self, done: Sequence[tuple[Entry, Verdict]]) -> list[Entry]:
        """Makes verdicts durable; returns what has to be asked again."""
        with self._lock:
            again = self._book.commit(done)
        self._told.verdicts(verdict for _, verdict in done)
        self._tell()
        return again

    def _tell(self) -> None:
        self._told.waiting(self._book.total - self._book.settled)
        self._progress(self._book.settled, self._book.total)


def check(settings: JudgeSettings) -> None:
    """What is wrong with a judge's settings, before anything is started.

    Raises:
        RequestError: a bad address, or a ceiling without a price.
    """
    base_url_of(settings)
    price = settings.price_now()
    if settings.max_usd is not None and not (price.prompt or price.reply):
        raise RequestError(
            "judge.max_usd needs to know what the judge costs",
            f"set judge.price.prompt and judge.price.reply, or judge.prices.{settings.model}",
        )


class _Asking:
    """The workers, in an event loop of their own thread."""

    def __init__(
        self,
        sender: Sender,
        settings: JudgeSettings,
        governor: Governor,
        *,
        reserve: Callable[[float], None],
        commit: Callable[[Sequence[tuple[Entry, Verdict]]], list[Entry]],
    ) -> None:
        self._sender, self._commit_to = sender, commit
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()
        self._workers: list[asyncio.Task[None]] = []
        self._bug: BaseException | None = None
        self._run(self._begin(settings, governor, reserve)).result()

    async def _begin(
        self, settings: JudgeSettings, governor: Governor, reserve: Callable[[float], None]
    ) -> None:
        self._gate = Gate(governor, f"the judge at {host_of(settings)}", reserve)
        self._asker = Asker(settings, self._sender, self._gate)
        self._queue: asyncio.Queue[Entry] = asyncio.Queue()
        self._done: list[tuple[Entry, Verdict, asyncio.Future[None]]] = []
        self._came = asyncio.Event()
        self._over = asyncio.Event()
        self._most = settings.concurrency
        self._idle = 0
        self._committer = asyncio.create_task(self._committing())

    def put(self, entries: Sequence[Entry]) -> None:
        """Queues cases; returns at once."""
        self._loop.call_soon_threadsafe(self._put, list(entries))

    def stop(self, why: RaypipeError) -> None:
        """Sends nothing any more; returns at once."""
        self._loop.call_soon_threadsafe(self._gate.stop, why)

    def wait(self) -> None:
        """Waits until nothing is queued or under way.

        Raises:
            RaypipeError: the run has to stop; what was under way has been committed.
        """
        self._run(self._drained()).result()
        if self._bug:
            raise self._bug
        if self._gate.stopped:
            raise self._gate.stopped

    def close(self) -> None:
        """Gives up what is under way."""
        with contextlib.suppress(TimeoutError):
            self._run(self._give_up()).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _put(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._queue.put_nowait(entry)
        more = min(self._most - len(self._workers), self._queue.qsize() - self._idle)
        for place in range(max(0, more)):
            self._workers.append(asyncio.create_task(self._working(place * SPREAD_S)))

    async def _drained(self) -> None:
        await self._queue.join()

    async def _working(self, begin_s: float) -> None:
        await asyncio.sleep(begin_s)
        while True:
            self._idle += 1
            entry = await self._queue.get()
            self._idle -= 1
            try:
                await self._settle(entry)
            except RaypipeError as stop:
                self._gate.stop(stop)
            except asyncio.CancelledError:
                raise
            except BaseException as bug:  # shown by ``wait``; here nobody would see it
                self._bug = self._bug or bug
                self._gate.stop(RaypipeError(f"judging broke ({type(bug).__name__})"))
            finally:
                self._queue.task_done()

    async def _settle(self, entry: Entry) -> None:
        verdict = await self._asker.judge(entry.case)
        durable = self._loop.create_future()
        self._done.append((entry, verdict, durable))
        self._came.set()
        await durable

    async def _committing(self) -> None:
        """Commits verdicts together that come together, one sync for all of them."""
        while True:
            await self._came.wait()
            self._came.clear()
            done, self._done = self._done, []
            try:
                rows = [(entry, verdict) for entry, verdict, _ in done]
                again = await self._loop.run_in_executor(None, self._commit_to, rows)
                self._put(again)
            except Exception as fault:
                for *_, durable in done:
                    durable.set_exception(fault)
                continue
            for *_, durable in done:
                durable.set_result(None)

    async def _give_up(self) -> None:
        tasks = [*self._workers, self._committer]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        judged = [(entry, verdict) for entry, verdict, _ in self._done]
        if judged:  # paid, and waiting for the commit before theirs
            with contextlib.suppress(ServiceError):
                await self._loop.run_in_executor(None, self._commit_to, judged)
        await self._sender.close()
        await self._loop.shutdown_default_executor()

    def _run(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


class _Heard:
    """A sender that knows whether any of its calls was answered, if only by a refusal."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._unanswered = 0
        self._answered = False
        self._last = ""

    async def send(self, call: Call) -> Reply | Fault:
        came = await self._sender.send(call)
        if isinstance(came, Fault) and not came.status:  # not even an HTTP status that says what is wrong
            self._unanswered += 1
            self._last = came.why
        else:
            self._answered = True
        return came

    async def close(self) -> None:
        await self._sender.close()

    def silence(self, settings: JudgeSettings) -> ServiceError | None:
        if self._answered or not self._unanswered:
            return None
        return ServiceError(
            f"the {settings.role} at {host_of(settings)} answered none of {self._unanswered} calls; "
            f"the last: {self._last}",
            f"see that it is up and that {settings.group}.base_url is right; the same command continues",
        )


def _sender(settings: JudgeSettings, use_ray: bool) -> Sender:
    if not use_ray:
        return Client(settings)
    from raypipe.judge.pool import RaySender  # only here: judging without a cluster needs no Ray

    return RaySender(settings)
