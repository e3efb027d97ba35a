"""The judge: one question and answer in, one verdict out, over an OpenAI-compatible endpoint.

What can go wrong is told apart by what it means:

- rate limit, 408, 409, 5xx, timeout, reset, broken body: tried again, then JUDGE_FAILED;
- any other 4xx (too long, filtered): JUDGE_FAILED at once;
- a reply that is no verdict (cut off, prose, a refusal): asked once more, then JUDGE_UNREADABLE;
- 401, 402, 403, 404, quota used up, told to wait for long, many failures in a row: ``ServiceError``.
  What follows cannot succeed either, so the run stops; the same command continues it.

None of them is ever a score. This module has no Ray in it; an instance belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from raypipe.errors import ServiceError
from raypipe.grading.rubrics import Reading, Rubric, UnreadableVerdict
from raypipe.judge.endpoint import NO_KEY, base_url_of, find_key, host_of, is_loopback, retry_after_s
from raypipe.records import Outcome, Prediction, Verdict, fingerprint
from raypipe.settings import JudgeSettings

JUDGED = frozenset({Outcome.OK, Outcome.EMPTY})  # an empty answer is an answer
BACKOFF_S = 0.5  # before the second try; doubles with each further one
MAX_BACKOFF_S = 30.0
MAX_RETRY_AFTER_S = 300.0  # an endpoint that asks for more has refused the run
MAX_FAILURES_IN_A_ROW = 32
_REFUSED = {401: "the key", 402: "the account", 403: "the key", 404: "the address or the model"}
_WORTH_RETRYING = frozenset({408, 409, 425, 429})
_SCHEMA_REFUSED = frozenset({400, 422})
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


class NoReply(Exception):
    """The judge did not answer this question; the message says why."""


@dataclass(frozen=True)
class Reply:
    """What the endpoint sent back for one request; "" and 0 stand for what it does not say."""

    text: str
    model: str
    prompt_tokens: int
    reply_tokens: int


def answer_text(prediction: Prediction) -> str:
    """The answer as it is judged: runs of white space become one blank, so that they cost no verdict."""
    return " ".join(prediction.text.split())


def verdict_key(prediction: Prediction, rubric: Rubric, settings: JudgeSettings) -> str:
    """Names what is judged, by whom and how, and nothing else.

    The model under test is not in it: another checkpoint with the same answer has the same key. The
    endpoint's address is not either: the judge's name and its model tell judges apart.
    """
    return fingerprint(
        prediction.benchmark,
        prediction.question,
        prediction.reference,
        answer_text(prediction),
        rubric.label,
        settings.name,
        settings.model,
        settings.temperature,
    )


class Judge:
    """Asks one endpoint, at most ``settings.concurrency`` questions at a time.

    Raises:
        RequestError: no key for an endpoint that is not on this machine, or a bad address.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._key = find_key(settings)
        self._host = host_of(settings)
        url = base_url_of(settings)
        # A proxy of the environment cannot reach this machine's own addresses.
        direct = openai.DefaultAsyncHttpxClient(trust_env=False) if is_loopback(url) else None
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=self._key, timeout=settings.timeout_s, max_retries=0, http_client=direct
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._with_schema = True  # until the endpoint refuses one and answers without
        self._resume_at = 0.0  # time of the event loop before which nothing is sent
        self._failures = 0
        self._stop: ServiceError | None = None

    def __repr__(self) -> str:
        return f"Judge({self._settings.name!r}, {self._settings.model!r} at {self._host})"

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def judge(self, prediction: Prediction, rubric: Rubric) -> Verdict:
        """The verdict on one answer; its outcome is OK, JUDGE_UNREADABLE or JUDGE_FAILED.

        ``reply`` of a failed verdict says why there is none. Tokens are those of all replies to it.

        Raises:
            ServiceError: the endpoint refuses the run; each later call then raises the same at once.
        """
        async with self._slots:
            if self._stop:
                raise self._stop
            try:
                verdict = await self._judge(prediction, rubric)
            except ServiceError as stop:
                self._stop = stop
                raise
            self._count(verdict)
            return verdict

    async def _judge(self, prediction: Prediction, rubric: Rubric) -> Verdict:
        user = rubric.user(prediction.question, prediction.reference, answer_text(prediction))
        replies: list[Reply] = []
        outcome, reading, said = Outcome.JUDGE_UNREADABLE, None, ""
        for system in (rubric.system, f"{rubric.system}\n\n{rubric.reminder}"):
            try:
                replies.append(await self._ask(system, user, rubric))
                said = replies[-1].text
                outcome, reading = Outcome.OK, rubric.read(said)
                break
            except UnreadableVerdict:
                outcome = Outcome.JUDGE_UNREADABLE
            except NoReply as fault:
                outcome, said = Outcome.JUDGE_FAILED, str(fault)
                break
        return self._verdict(prediction, rubric, outcome, reading, self._without_key(said), replies)

    def _verdict(
        self,
        prediction: Prediction,
        rubric: Rubric,
        outcome: Outcome,
        reading: Reading | None,
        said: str,
        replies: list[Reply],
    ) -> Verdict:
        return Verdict(
            key=verdict_key(prediction, rubric, self._settings),
            benchmark=prediction.benchmark,
            question_id=prediction.question_id,
            judge=self._settings.name,
            judge_model=replies[-1].model if replies else "",
            rubric=rubric.label,
            outcome=outcome,
            correct=reading.correct if reading else None,
            score=reading.score if reading else None,
            reply=said,
            prompt_tokens=sum(r.prompt_tokens for r in replies),
            reply_tokens=sum(r.reply_tokens for r in replies),
        )

    async def _ask(self, system: str, user: str, rubric: Rubric) -> Reply:
        """One reply, tried again while that may help.

        Raises:
            NoReply: the tries are used up, or this request is refused.
            ServiceError: the endpoint refuses the run.
        """
        why, wait_s = "", 0.0
        for attempt in range(self._settings.tries):
            if attempt:
                await asyncio.sleep(wait_s)
            await self._wait_for_endpoint()
            wait_s = _backoff_s(attempt)
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    return await self._send_either_way(system, user, rubric)
            except openai.APIStatusError as fault:
                why = self._refusal(fault)
                asked_s = retry_after_s(fault.response.headers)
                if asked_s:
                    self._hold_off(asked_s, why)
                    wait_s = 0.0
            except (TimeoutError, openai.APITimeoutError):
                why = f"no reply within {self._settings.timeout_s:g} s"
            except (openai.APIError, ValueError, RecursionError) as fault:
                why = f"connection or reply broken ({type(fault).__name__})"
        raise NoReply(f"no reply in {self._settings.tries} tries; the last: {why}")

    async def _send_either_way(self, system: str, user: str, rubric: Rubric) -> Reply:
        """Asks for the reply's JSON schema; without it where the endpoint does not know how."""
        if not self._with_schema:
            return await self._send(system, user, {})
        form = {
            "type": "json_schema",
            "json_schema": {"name": rubric.name, "strict": True, "schema": dict(rubric.schema)},
        }
        try:
            return await self._send(system, user, {"response_format": form})
        except openai.APIStatusError as fault:
            if fault.status_code not in _SCHEMA_REFUSED:
                raise
        reply = await self._send(system, user, {})
        self._with_schema = False  # only now is it known that the schema was what it refused
        return reply

    async def _send(self, system: str, user: str, more: dict[str, Any]) -> Reply:
        completion = await self._client.chat.completions.create(
            model=self._settings.model,
            messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
            temperature=self._settings.temperature,
            **more,
        )
        return _reply_of(completion)

    def _refusal(self, fault: openai.APIStatusError) -> str:
        """Says why a request was refused, where trying it again may help.

        Raises:
            NoReply: it would be refused again.
            ServiceError: every request would be.
        """
        said = " ".join(self._without_key(str(fault.message)).split())[:200]
        why = f"HTTP {fault.status_code}: {said}"
        quota = bool({str(fault.code), str(fault.type)} & _QUOTA)
        if quota or fault.status_code in _REFUSED:
            what = "the quota" if quota else _REFUSED[fault.status_code]
            raise ServiceError(
                f"the judge at {self._host} refuses {what} for model {self._settings.model} ({why})",
                "put that right (judge.key_file, judge.base_url, judge.model); the same command continues",
            ) from None
        if fault.status_code < 500 and fault.status_code not in _WORTH_RETRYING:
            raise NoReply(f"request refused with {why}") from None
        return why

    def _hold_off(self, asked_s: float, why: str) -> None:
        """Sends nothing for as long as the endpoint asks, whichever question it said it to."""
        if asked_s > MAX_RETRY_AFTER_S:
            raise ServiceError(
                f"the judge at {self._host} asks to wait {asked_s:.0f} s ({why})",
                "run the same command later; it continues",
            ) from None
        self._resume_at = max(self._resume_at, asyncio.get_running_loop().time() + asked_s)

    async def _wait_for_endpoint(self) -> None:
        clock = asyncio.get_running_loop()
        while (wait_s := self._resume_at - clock.time()) > 0:
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.1))  # noqa: S311 (jitter, no secret)

    def _count(self, verdict: Verdict) -> None:
        """Stops the run when the endpoint is down rather than failing each question, slowly."""
        self._failures = self._failures + 1 if verdict.outcome == Outcome.JUDGE_FAILED else 0
        if self._failures >= MAX_FAILURES_IN_A_ROW:
            self._stop = ServiceError(
                f"the judge at {self._host} failed {self._failures} times in a row: {verdict.reply}",
                "see that the endpoint is up; the same command continues",
            )

    def _without_key(self, text: str) -> str:
        return text if self._key == NO_KEY else text.replace(self._key, "<key>")


def _backoff_s(attempt: int) -> float:
    whole_s = min(MAX_BACKOFF_S, BACKOFF_S * 2**attempt)
    return whole_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter, no secret)


def _reply_of(completion: Any) -> Reply:
    """Reads a completion that the client did not check: servers leave fields out or fill them wrongly.

    Raises:
        ValueError: not a chat completion at all, such as a proxy's page.
    """
    if not isinstance(completion, ChatCompletion) or not isinstance(completion.choices, list):
        raise ValueError("not a chat completion")
    message = getattr(completion.choices[0], "message", None) if completion.choices else None
    content = getattr(message, "content", None) or getattr(message, "refusal", None)
    usage = completion.usage
    return Reply(
        text=content if isinstance(content, str) else "",
        model=str(completion.model or ""),
        prompt_tokens=_count_of(getattr(usage, "prompt_tokens", 0)),
        reply_tokens=_count_of(getattr(usage, "completion_tokens", 0)),
    )


def _count_of(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0
