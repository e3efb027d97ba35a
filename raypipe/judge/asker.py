"""From a case to its verdict: the calls it takes, each through the gate, and what their ends mean.

A passing fault is tried again, later each time, ``tries`` times in all; a refusal for being too fast does not
count as one of them, up to ``LIMITED_TRIES``. A reply that is no verdict is asked once more, then it is
JUDGE_UNREADABLE; no reply is JUDGE_FAILED. None of them is ever a score.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import Iterable
from dataclasses import replace

from raypipe.errors import ServiceError
from raypipe.grading.rubrics import Reading, UnreadableVerdict, message
from raypipe.judge.case import Case
from raypipe.judge.client import Call, Fault, Form, Kind, Reply, Sender
from raypipe.judge.endpoint import host_of
from raypipe.judge.gate import Gate
from raypipe.judge.governor import Answered, Cost, Ended, Failed, Limited, backoff_s
from raypipe.records import Outcome, Verdict
from raypipe.settings import JudgeSettings, Price

MAX_FAILURES_IN_A_ROW = 32
LIMITED_TRIES = 100
LEAST_ADVICE_S = 0.1
MAX_KEPT_CHARS = 16_000  # of a reply; no verdict is as long
CODE_BYTES = 9
OVERHEAD_TOKENS = 64  # what endpoints put around messages
TOKENS_PER_PRICE = 1_000_000
_FORM_REFUSED = (400, 422)
LENGTH, LENGTH_TODAY = "max_tokens", "max_completion_tokens"  # newer models of OpenAI take only this one


class NoReply(Exception):
    """The judge did not answer this question; the message says why."""


class Asker:
    """Judges one case after another, many at once; belongs to one event loop."""

    def __init__(self, settings: JudgeSettings, sender: Sender, gate: Gate) -> None:
        self._settings, self._sender, self._gate = settings, sender, gate
        self._who = f"the {settings.role} at {host_of(settings)}"
        self._form = Form()  # as far as it is known what the endpoint takes
        self._failures = 0

    async def judge(self, case: Case) -> Verdict:
        """The verdict; its outcome is OK, JUDGE_UNREADABLE or JUDGE_FAILED.

        ``reply`` of a failed verdict says why there is none. Tokens are those of all replies to it.

        Raises:
            RaypipeError: the run has to stop; each later call then raises the same at once.
        """
        shown, flags = case.rubric.content(case.subjects)
        verdict = replace(case.verdict(self._settings, Outcome.JUDGE_UNREADABLE, ""), flags=flags)
        told = case.rubric.system
        for system in (told, f"{told}\n\n{case.rubric.reminder}"):
            code = new_code(list(shown.values()))
            call = Call(case.rubric.name, system, message(shown, code), case.rubric.schema, self._form)
            try:
                reply = await self._reply(call)
            except NoReply as fault:
                verdict = replace(verdict, outcome=Outcome.JUDGE_FAILED, reply=str(fault))
                break
            verdict = _with_reply(verdict, reply, code)
            try:
                verdict = _decided(verdict, case.rubric.read(reply.text, code))
                break
            except UnreadableVerdict:
                continue
        self._count(verdict)
        return verdict

    async def _reply(self, call: Call) -> Reply:
        """One reply, tried again while that may help.

        Raises:
            NoReply: the tries are used up, or this request is refused.
            RaypipeError: the run has to stop.
        """
        failed = limited = 0
        while True:
            came = await self._send(call)
            if isinstance(came, Reply):
                self._form = call.form
                return came
            if came.kind is Kind.CLOSED:
                self._gate.stop(self._closed(came))
                raise self._gate.stopped or AssertionError("a gate that was stopped says why")
            if came.kind is Kind.REFUSED:
                form = _other_form(call.form, came)
                if form is None:
                    raise NoReply(f"request refused with {came.why}")
                call = replace(call, form=form)
                continue
            if came.kind is Kind.LIMITED:
                limited += 1
            else:
                failed += 1
            if failed >= self._settings.tries or limited >= LIMITED_TRIES:
                raise NoReply(f"no reply in {failed + limited} tries; the last: {came.why}")
            # Where the endpoint says how long to wait, the gate sees to it. No time at all, or a date that is
            # past by this machine's clock, is no advice.
            if (came.retry_after_s or 0.0) < LEAST_ADVICE_S:
                await asyncio.sleep(backoff_s(failed + limited - 1, random.random()))  # noqa: S311 - spread

    async def _send(self, call: Call) -> Reply | Fault:
        permit = await self._gate.enter(self._most(call))
        ended: Ended = Failed(paid=True)  # until the contrary is known, also where this is cancelled
        try:
            came = await self._sender.send(call)
            ended = self._ended(came)
        finally:
            self._gate.leave(permit, ended)
        return came

    def _most(self, call: Call) -> Cost:
        """What a call takes at most. No tokenizer makes more tokens of a text than it has bytes."""
        texts = (call.system, call.user, json.dumps(call.schema))
        prompt = sum(len(text.encode()) for text in texts) + OVERHEAD_TOKENS
        return self._cost(prompt, self._settings.max_reply_tokens)

    def _cost(self, prompt_tokens: int, reply_tokens: int) -> Cost:
        usd = usd_of(prompt_tokens, reply_tokens, self._settings.price_now())
        return Cost(prompt_tokens + reply_tokens, usd)

    def _ended(self, came: Reply | Fault) -> Ended:
        if isinstance(came, Fault):
            if came.kind is Kind.LIMITED:
                return Limited(came.retry_after_s)
            return Failed(came.paid, came.retry_after_s)
        if came.prompt_tokens is None or came.reply_tokens is None:
            return Answered()
        return Answered(self._cost(came.prompt_tokens, came.reply_tokens))

    def _closed(self, fault: Fault) -> ServiceError:
        g = self._settings.group
        return ServiceError(
            f"{self._who} {fault.why}",
            f"put that right ({g}.key_file, {g}.base_url, {g}.model); the same command continues",
        )

    def _count(self, verdict: Verdict) -> None:
        """Stops the run when the endpoint is down rather than failing each question, slowly."""
        self._failures = self._failures + 1 if verdict.outcome is Outcome.JUDGE_FAILED else 0
        if self._failures >= MAX_FAILURES_IN_A_ROW:
            self._gate.stop(
                ServiceError(
                    f"{self._who} failed {self._failures} times in a row: {verdict.reply}",
                    "see that the endpoint is up; the same command continues",
                )
            )


def usd_of(prompt_tokens: int, reply_tokens: int, price: Price) -> float:
    """US dollars."""
    return (prompt_tokens * price.prompt + reply_tokens * price.reply) / TOKENS_PER_PRICE


def new_code(texts: Iterable[str]) -> str:
    """A code for one call that nobody can know before, and that is in none of the texts."""
    while True:
        code = secrets.token_hex(CODE_BYTES)
        if not any(code in text for text in texts):
            return code


def _with_reply(verdict: Verdict, reply: Reply, code: str) -> Verdict:
    """The code is left out of what is kept: it says nothing, and verdicts can be compared without it."""
    return replace(
        verdict,
        judge_model=reply.model,
        fingerprint=reply.fingerprint,
        reply=reply.text.replace(code, "<code>")[:MAX_KEPT_CHARS],
        prompt_tokens=verdict.prompt_tokens + (reply.prompt_tokens or 0),
        reply_tokens=verdict.reply_tokens + (reply.reply_tokens or 0),
    )


def _decided(verdict: Verdict, reading: Reading) -> Verdict:
    return replace(
        verdict,
        outcome=Outcome.OK,
        correct=reading.correct,
        score=reading.score,
        baseline=reading.baseline,
        choice=reading.choice,
    )


def _other_form(form: Form, fault: Fault) -> Form | None:
    """Another form that the endpoint may take; None where it is not the form that it refuses."""
    if fault.status not in _FORM_REFUSED:
        return None
    if LENGTH in fault.why and form.length == LENGTH:
        return replace(form, length=LENGTH_TODAY)
    return replace(form, schema=False) if form.schema else None
