"""The governor by itself: thousands of simulated courses on a clock of their own, and single cases."""

import dataclasses
import heapq
import itertools
import random

import pytest

from raypipe.judge import governor as module
from raypipe.judge.governor import (
    MAX_RETRY_AFTER_S,
    NEVER,
    SHRINK,
    STARVED_S,
    WINDOW_S,
    Answered,
    CeilingReached,
    Cost,
    Ended,
    Failed,
    Governor,
    Limited,
    Limits,
    Permit,
    TooSlow,
    Wait,
    backoff_s,
)
from tests.support.mutation import mutated

COURSES = 2000
FREE = Cost(0, 0.0)


@dataclasses.dataclass
class Course:
    """One simulated run: an endpoint with a mood, and every promise checked at every step."""

    seed: int

    def __post_init__(self) -> None:
        self.luck = luck = random.Random(self.seed)
        self.limits = Limits(
            concurrency=luck.choice([1, 2, 5, 16, 64]),
            requests_per_minute=luck.choice([None, None, 1, 7, 60]),
            tokens_per_minute=luck.choice([None, None, 500, 5_000]),
            max_usd=luck.choice([None, 0.05, 1.0]),
        )
        self.governor = Governor(self.limits, spent_usd=luck.choice([0.0, 0.01]))
        self.moods = [luck.choice([0.0, 0.1, 0.5, 0.9]) for _ in range(3)]  # limited, failed, without usage
        self.now = luck.uniform(0, 1e6)
        self.out: list[tuple[float, int, Permit]] = []  # when each call ends
        self.granted: list[tuple[float, Permit]] = []
        self.taken: dict[int, int] = {}  # tokens of each call, as known
        self.billed = self.governor.spent_usd
        self.held_until = 0.0
        self.fired = dict.fromkeys(("limited", "failed", "unsaid", "retry_after", "ceiling"), 0)

    def run(self, calls: int) -> None:
        for _ in range(calls):
            if not self.next_permit():
                return
        while self.out:
            self.end_one()

    def next_permit(self) -> bool:
        """Waits as a gate does; False when the ceiling is reached."""
        most = Cost(self.luck.randint(1, 700), self.luck.choice([0.0, 0.001, 0.02]))
        while True:
            try:
                found = self.governor.ask(self.now, most)
            except CeilingReached:
                self.fired["ceiling"] += 1
                assert not self.out, "money may still come back"
                assert self.governor.spent_usd + most.usd > self.limits.max_usd
                return False
            if isinstance(found, Permit):
                self.check(found)
                return True
            assert found.until > self.now, "a wait that is over is no wait"
            ends = self.out[0][0] if self.out else NEVER
            assert min(found.until, ends) < NEVER, "nothing would ever happen"
            if ends <= found.until:
                self.end_one()
            else:
                self.now = found.until

    def check(self, permit: Permit) -> None:
        self.granted.append((self.now, permit))
        self.taken[permit.number] = permit.most.tokens
        self.now += self.luck.choice([0.0, 0.0, 0.001, 1.0])
        at = self.granted[-1][0]
        assert at >= self.held_until, "Retry-After is undercut"
        assert len(self.out) < max(1, self.limits.concurrency), "more calls than allowed"
        recent = [p for t, p in self.granted if t + WINDOW_S > at]
        if self.limits.requests_per_minute:
            assert len(recent) <= self.limits.requests_per_minute, "more requests a minute"
        if self.limits.tokens_per_minute and len(recent) > 1:
            tokens = sum(self.taken[p.number] for p in recent)
            assert tokens <= self.limits.tokens_per_minute, "more tokens a minute"
        if self.limits.max_usd:
            at_most = self.billed + sum(p.most.usd for *_, p in self.out) + permit.most.usd
            assert at_most <= self.limits.max_usd + 1e-9, "more money than allowed"
        heapq.heappush(self.out, (self.now + self.luck.expovariate(1.0), permit.number, permit))

    def end_one(self) -> None:
        ends, _, permit = heapq.heappop(self.out)
        self.now = max(self.now, ends)
        ended = self.how(permit)
        before = self.governor.limit
        try:
            self.governor.settle(self.now, permit, ended)
        except TooSlow:
            assert isinstance(ended, Limited), "stopped without a reason"
        self.learn(permit, ended)
        if isinstance(ended, Answered):
            assert before <= self.governor.limit <= min(before + 1, self.limits.concurrency)
        else:
            assert 1.0 <= self.governor.limit <= before, "the limit grew"
        assert self.governor.in_flight == len(self.out)
        assert abs(self.governor.spent_usd - self.billed) < 1e-9, "another bill"

    def how(self, permit: Permit) -> Ended:
        limited, failed, unsaid = self.moods
        wait = self.luck.choice([None, 0.0, 0.5, 20.0])
        if self.luck.random() < limited:
            self.fired["limited"] += 1
            self.fired["retry_after"] += bool(wait)
            return Limited(wait)
        if self.luck.random() < failed:
            self.fired["failed"] += 1
            return Failed(self.luck.random() < 0.5, wait)
        if self.luck.random() < unsaid:
            self.fired["unsaid"] += 1
            return Answered()
        share = self.luck.random()
        return Answered(Cost(int(permit.most.tokens * share), permit.most.usd * share))

    def learn(self, permit: Permit, ended: Ended) -> None:
        paid = permit.most if not isinstance(ended, Limited) else FREE
        if isinstance(ended, Failed) and not ended.paid:
            paid = FREE
        if isinstance(ended, Answered) and ended.cost is not None:
            paid = ended.cost
        self.billed += paid.usd
        self.taken[permit.number] = paid.tokens
        if not isinstance(ended, Answered):
            self.held_until = max(self.held_until, self.now + (ended.retry_after_s or 0.0))


def simulate() -> dict[str, int]:
    """Runs all courses; returns how often each kind of thing happened."""
    fired: dict[str, int] = {}
    for seed in range(COURSES):
        course = Course(seed)
        course.run(40)
        fired = {name: fired.get(name, 0) + count for name, count in course.fired.items()}
    return fired


def test_every_promise_holds_in_thousands_of_courses() -> None:
    fired = simulate()
    assert min(fired.values()) > 100, f"each kind of thing has happened: {fired}"


@pytest.mark.parametrize(
    ("line", "instead", "why"),
    [
        ("if now < self.hold_until:", "if now < self.hold_until - 0.4:", "Retry-After is undercut"),
        (
            "self.hold_until = max(self.hold_until, now + asked_s)",
            "self.hold_until = now + asked_s",
            "undercut",
        ),
        ("if self.in_flight >= max(", "if self.in_flight > max(", "more calls than allowed"),
        ("self.at_most_usd + most.usd > ceiling", "self.spent_usd > ceiling", "more money"),
        ("cost = _cost_of(permit, ended)", "cost = Cost()", "another bill"),
        ("len(self._calls) >= rpm", "len(self._calls) > rpm", "more requests a minute"),
        ("left + tokens <= tpm", "left <= tpm", "more tokens a minute"),
        ("self.limit * SHRINK", "self.limit / SHRINK", "the limit grew"),
    ],
)
def test_a_governor_with_a_bug_is_caught(line: str, instead: str, why: str) -> None:
    with mutated("raypipe.judge.governor", (line, instead)), pytest.raises(AssertionError, match=why):
        simulate()


def test_a_storm_of_refusals_cuts_once_and_grows_slowly() -> None:
    governor = Governor(Limits(concurrency=10))
    first = [governor.ask(0.0, FREE) for _ in range(10)]
    assert governor.ask(0.0, FREE) == Wait(NEVER)
    for permit in first:
        governor.settle(1.0, permit, Limited())
    assert (governor.limit, governor.episodes) == (10 * SHRINK, 1), "one episode"
    for step in itertools.count():
        permit = governor.ask(2.0 + step, FREE)
        governor.settle(2.0 + step, permit, Answered(FREE))
        if governor.limit >= 8:
            break
    assert step + 1 == pytest.approx(10 * SHRINK, abs=1.5), "one more for a round of successes"
    governor.settle(90.0, governor.ask(90.0, FREE), Limited())
    assert governor.episodes == 2


def test_one_call_goes_on_whatever_the_refusals() -> None:
    governor = Governor(Limits(concurrency=4))
    for second in range(50):
        governor.settle(second, governor.ask(second, FREE), Limited())
    assert governor.limit == 1.0


def test_a_wait_holds_for_all_and_a_shorter_one_does_not_end_it() -> None:
    governor = Governor(Limits(concurrency=3))
    a, b, c = (governor.ask(0.0, FREE) for _ in range(3))
    governor.settle(1.0, a, Limited(retry_after_s=30))
    governor.settle(2.0, b, Limited(retry_after_s=1))
    governor.settle(3.0, c, Answered(FREE))
    assert governor.ask(4.0, FREE) == Wait(31.0)
    assert isinstance(governor.ask(31.0, FREE), Permit)


def test_a_wait_that_is_too_long_stops_and_so_do_refusals_that_do_not_end() -> None:
    governor = Governor(Limits(concurrency=1))
    with pytest.raises(TooSlow, match="asks to wait"):
        governor.settle(0.0, governor.ask(0.0, FREE), Limited(MAX_RETRY_AFTER_S + 1))
    assert governor.in_flight == 0, "the permit is back all the same"
    governor = Governor(Limits(concurrency=1))
    governor.settle(0.0, governor.ask(0.0, FREE), Limited())
    governor.settle(STARVED_S, governor.ask(STARVED_S, FREE), Limited())
    with pytest.raises(TooSlow, match="refused every request"):
        governor.settle(STARVED_S + 1, governor.ask(STARVED_S + 1, FREE), Limited())


def test_a_success_in_between_means_it_is_not_starved() -> None:
    governor = Governor(Limits(concurrency=1))
    for second, ended in ((0, Limited()), (500, Answered(FREE)), (601, Limited()), (1100, Limited())):
        governor.settle(second, governor.ask(second, FREE), ended)


def test_money_is_reserved_and_what_may_be_paid_is_paid() -> None:
    governor = Governor(Limits(concurrency=9, max_usd=1.0), spent_usd=0.25)
    most = Cost(10, 0.25)
    a, b, c = (governor.ask(0.0, most) for _ in range(3))
    assert governor.at_most_usd == 1.0
    assert governor.ask(0.0, most) == Wait(NEVER), "money may come back"
    governor.settle(1.0, a, Answered(Cost(4, 0.1)))
    governor.settle(1.0, b, Failed(paid=True))
    governor.settle(1.0, c, Limited())
    assert governor.spent_usd == pytest.approx(0.6)
    d = governor.ask(1.0, most)
    governor.settle(2.0, d, Answered())
    with pytest.raises(CeilingReached):
        governor.ask(2.0, most)
    assert isinstance(governor.ask(2.0, Cost(1, 0.15)), Permit), "a cheaper call still fits"


def test_a_call_larger_than_the_tokens_a_minute_goes_alone() -> None:
    governor = Governor(Limits(concurrency=9, tokens_per_minute=100))
    governor.settle(0.0, governor.ask(0.0, Cost(50)), Answered(Cost(50)))
    assert governor.ask(1.0, Cost(1000)) == Wait(WINDOW_S)
    assert isinstance(governor.ask(WINDOW_S, Cost(1000)), Permit)


def test_a_permit_is_given_back_once() -> None:
    governor = Governor(Limits(concurrency=1))
    permit = governor.ask(0.0, FREE)
    governor.settle(0.0, permit, Failed())
    with pytest.raises(ValueError, match="is not out"):
        governor.settle(0.0, permit, Failed())


def test_tries_are_spread_and_bounded() -> None:
    waits = [backoff_s(attempt, luck) for attempt in range(60) for luck in (0.0, 0.5, 1.0)]
    assert max(waits) <= module.MAX_BACKOFF_S
    assert all(backoff_s(a, 0.0) * 2 == pytest.approx(backoff_s(a, 1.0)) for a in range(60))
