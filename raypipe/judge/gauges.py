"""What judging tells the dashboard, from the process that hands out the work: calls, verdicts, cost."""

from __future__ import annotations

import time
from collections.abc import Iterable

from raypipe.gauges import Counter, Gauge, Histogram, run_of
from raypipe.judge.client import Call, Fault, Reply, Sender
from raypipe.judge.governor import Governor
from raypipe.records import Verdict
from raypipe.settings import JudgeSettings

SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
TAGS = ("run", "judge")

CALLS = Counter(
    "raypipe_judge_calls",
    "calls by their end: replied, or why not (limited: too many at once)",
    (*TAGS, "end"),
)
REPLIES = Histogram("raypipe_judge_reply_seconds", "seconds from a call to its reply", TAGS, SECONDS)
VERDICTS = Counter("raypipe_judge_verdicts", "verdicts by outcome", (*TAGS, "outcome"))
TOKENS = Counter(
    "raypipe_judge_tokens", "tokens of prompts and replies, as the endpoint counts them", (*TAGS, "kind")
)
IN_FLIGHT = Gauge("raypipe_judge_in_flight", "calls under way", TAGS)
ALLOWED = Gauge("raypipe_judge_allowed", "calls that may be under way; fewer after refusals", TAGS)
WAITING = Gauge("raypipe_judge_waiting", "answers without a verdict so far", TAGS)
SPENT = Gauge(
    "raypipe_judge_spent_usd", "US dollars that all starts of the run have paid; none without a price", TAGS
)
CEILING = Gauge("raypipe_judge_ceiling_usd", "US dollars that the run may pay; none without a ceiling", TAGS)


class Told:
    """The metrics of one judge of one run; used from several threads."""

    def __init__(self, folder: str, settings: JudgeSettings) -> None:
        self._tags = {"run": run_of(folder), "judge": settings.name}
        price = settings.price_now()
        self._priced = bool(price.prompt or price.reply)
        if settings.max_usd is not None:
            CEILING.set(settings.max_usd, **self._tags)

    def governed(self, governor: Governor) -> None:
        """A call was let through, or has ended."""
        IN_FLIGHT.set(governor.in_flight, **self._tags)
        ALLOWED.set(governor.limit, **self._tags)
        if self._priced:
            SPENT.set(governor.spent_usd, **self._tags)

    def waiting(self, count: int) -> None:
        WAITING.set(count, **self._tags)

    def verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """Verdicts that the judge was asked for; one that questions share is one."""
        for verdict in verdicts:
            VERDICTS.add(1, **self._tags, outcome=str(verdict.outcome))

    def ended(self, came: Reply | Fault, took_s: float) -> None:
        """A call has ended."""
        if isinstance(came, Fault):
            CALLS.add(1, **self._tags, end=str(came.kind))
            return
        CALLS.add(1, **self._tags, end="replied")
        REPLIES.observe(took_s, **self._tags)
        TOKENS.add(came.prompt_tokens or 0, **self._tags, kind="prompt")
        TOKENS.add(came.reply_tokens or 0, **self._tags, kind="reply")

    def over(self) -> None:
        """Nothing is under way any more."""
        IN_FLIGHT.set(0, **self._tags)


class Counted:
    """A sender whose calls are told."""

    def __init__(self, sender: Sender, told: Told) -> None:
        self._sender, self._told = sender, told

    async def send(self, call: Call) -> Reply | Fault:
        begun = time.monotonic()
        came = await self._sender.send(call)
        self._told.ended(came, time.monotonic() - begun)
        return came

    async def close(self) -> None:
        await self._sender.close()
