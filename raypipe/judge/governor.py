"""Who may ask the judge, when: one governor per endpoint owns concurrency, rate and money.

A pure state machine: the time is passed in, nothing is read, sent or waited for. ``ask`` gives a permit or
says until when to wait; ``settle`` takes the permit back with what became of the call.

- Concurrency: at most ``limit`` permits. A 429 multiplies it by ``SHRINK``, once per episode: refusals of
  calls that were sent before the last cut say nothing new. Every ``limit`` successes add one.
- Rate: at most so many requests, and tokens, in any ``WINDOW_S``. Tokens are counted at the most a call can
  take until it is settled.
- ``Retry-After``: until then nobody gets a permit, whichever call it was said to.
- Money: a permit reserves the most its call can cost, so that what is spent and reserved never passes the
  ceiling. What is not known to be free, such as a call that timed out, is paid at its reservation.

Adaptive concurrency after TCP's congestion avoidance (RFC 5681, 3.1): additive increase, multiplicative
decrease.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

SHRINK = 0.7
LEAST = 1.0  # permits that are always given
WINDOW_S = 60.0
MAX_RETRY_AFTER_S = 300.0  # an endpoint that asks for more has refused the run
STARVED_S = 600.0  # of refusals for being too fast, without a single success
BACKOFF_S = 0.5  # before the second try; doubles with each further one
MAX_BACKOFF_S = 30.0
NEVER = math.inf


@dataclass(frozen=True)
class Limits:
    """What the governor holds to; None: no limit."""

    concurrency: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_usd: float | None = None


@dataclass(frozen=True)
class Cost:
    """Tokens and US dollars of one call; for a reservation the most it can take."""

    tokens: int = 0
    usd: float = 0.0


@dataclass(frozen=True)
class Permit:
    """The right to send one request."""

    number: int
    most: Cost


@dataclass(frozen=True)
class Wait:
    """No permit before this time; ``NEVER``: not before another call is settled."""

    until: float


@dataclass(frozen=True)
class Answered:
    """A reply came, whatever it says; ``cost`` None: the endpoint did not say."""

    cost: Cost | None = None


@dataclass(frozen=True)
class Limited:
    """429: not worked on, not paid."""

    retry_after_s: float | None = None


@dataclass(frozen=True)
class Failed:
    """No reply; ``paid``: it may have been worked on all the same (timeout, reset, a lost worker)."""

    paid: bool = False
    retry_after_s: float | None = None


Ended = Answered | Limited | Failed


class CeilingReached(Exception):
    """The next call could pass the money ceiling, and no call is under way that may give money back."""


class TooSlow(Exception):
    """The endpoint asks for a longer wait than a run should make, or refuses all calls for long."""


@dataclass
class Governor:
    """See the module. ``spent_usd`` is what earlier starts of the run have paid."""

    limits: Limits
    spent_usd: float = 0.0
    limit: float = 0.0
    hold_until: float = 0.0
    reserved_usd: float = 0.0
    episodes: int = 0
    _open: dict[int, Permit] = field(default_factory=dict)
    _number: int = 0
    _cut_at: int = 0  # calls up to this number were sent before the last cut
    _refused_since: float | None = None
    _window: _Window = field(default_factory=lambda: _Window())

    def __post_init__(self) -> None:
        self.limit = float(self.limits.concurrency)

    @property
    def in_flight(self) -> int:
        return len(self._open)

    @property
    def at_most_usd(self) -> float:
        """What has been spent if every call under way costs the most it can."""
        return self.spent_usd + self.reserved_usd

    def ask(self, now: float, most: Cost) -> Permit | Wait:
        """A permit for one call, or how long to wait.

        Args:
            now: seconds, of any clock that does not go back.
            most: what the call takes at most.

        Raises:
            CeilingReached: the ceiling leaves no room for it.
        """
        if now < self.hold_until:
            return Wait(self.hold_until)
        if self.in_flight >= max(LEAST, math.floor(self.limit)):
            return Wait(NEVER)
        ceiling = self.limits.max_usd
        if ceiling is not None and self.at_most_usd + most.usd > ceiling:
            if self._open:
                return Wait(NEVER)
            raise CeilingReached
        free_at = self._window.free_at(now, most.tokens, self.limits)
        if free_at > now:
            return Wait(free_at)
        self._number += 1
        permit = Permit(self._number, most)
        self._open[permit.number] = permit
        self.reserved_usd = math.fsum(p.most.usd for p in self._open.values())
        self._window.add(permit.number, now, most.tokens)
        return permit

    def settle(self, now: float, permit: Permit, ended: Ended) -> Cost:
        """Takes a permit back; returns what its call is taken to have cost.

        Raises:
            TooSlow: the run should stop; the permit is taken back all the same.
            ValueError: the permit was given back before.
        """
        if self._open.pop(permit.number, None) is None:
            raise ValueError(f"permit {permit.number} is not out")
        cost = _cost_of(permit, ended)
        self.spent_usd += cost.usd
        self.reserved_usd = math.fsum(p.most.usd for p in self._open.values())
        self._window.correct(permit.number, cost.tokens)
        if isinstance(ended, Answered):
            self._refused_since = None
            self.limit = min(float(self.limits.concurrency), self.limit + 1 / max(1.0, self.limit))
            return cost
        if isinstance(ended, Limited):
            self._cut(permit)
            self._refused_since = now if self._refused_since is None else self._refused_since
        asked_s = ended.retry_after_s or 0.0
        if asked_s > MAX_RETRY_AFTER_S:
            raise TooSlow(f"asks to wait {asked_s:.0f} s")
        self.hold_until = max(self.hold_until, now + asked_s)
        refused_s = 0.0 if self._refused_since is None else now - self._refused_since
        if isinstance(ended, Limited) and refused_s > STARVED_S:
            raise TooSlow(f"has refused every request for {refused_s:.0f} s as too many")
        return cost

    def _cut(self, permit: Permit) -> None:
        if permit.number > self._cut_at:
            self.limit = max(LEAST, self.limit * SHRINK)
            self._cut_at = self._number
            self.episodes += 1


def backoff_s(attempt: int, luck: float) -> float:
    """Seconds to wait after failed try number ``attempt`` (from 0); ``luck`` in 0..1 spreads the tries.

    >>> backoff_s(0, 1.0), backoff_s(2, 0.0), backoff_s(20, 1.0)
    (0.5, 1.0, 30.0)
    """
    return min(MAX_BACKOFF_S, BACKOFF_S * 2 ** min(attempt, 30)) * (0.5 + luck / 2)


def _cost_of(permit: Permit, ended: Ended) -> Cost:
    if isinstance(ended, Answered):
        return permit.most if ended.cost is None else ended.cost
    paid = isinstance(ended, Failed) and ended.paid
    return permit.most if paid else Cost()


class _Window:
    """The calls of the last ``WINDOW_S``: when each was sent, and its tokens."""

    def __init__(self) -> None:
        self._calls: deque[tuple[int, float]] = deque()
        self._tokens: dict[int, int] = {}
        self._sum = 0

    def free_at(self, now: float, tokens: int, limits: Limits) -> float:
        """When one more call with so many tokens is within the limits."""
        while self._calls and self._calls[0][1] + WINDOW_S <= now:
            self._sum -= self._tokens.pop(self._calls.popleft()[0])
        at = now
        rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
        if rpm is not None and len(self._calls) >= rpm:
            at = self._calls[len(self._calls) - rpm][1] + WINDOW_S
        if tpm is not None:
            left = self._sum
            for number, sent in self._calls:  # a call that is larger than the limit waits to be alone
                if left + tokens <= tpm:
                    break
                at = max(at, sent + WINDOW_S)
                left -= self._tokens[number]
        return at

    def add(self, number: int, now: float, tokens: int) -> None:
        self._calls.append((number, now))
        self._tokens[number] = tokens
        self._sum += tokens

    def correct(self, number: int, tokens: int) -> None:
        if number in self._tokens:
            self._sum += tokens - self._tokens[number]
            self._tokens[number] = tokens
