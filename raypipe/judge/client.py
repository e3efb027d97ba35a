"""One request to the judge's endpoint, and what became of it. No Ray here, and no second try.

What can go wrong is told apart by what it means for the next call:

- 429: too fast;
- 408, 409, 425, 5xx, timeout, reset, broken body: may pass;
- any other 4xx (too long, filtered): this request would be refused again;
- 401, 402, 403, 404, a quota used up: every request would be.

The key is read where the request is sent, and is cut out of all that comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import openai
from openai.types.chat import ChatCompletion

from raypipe.grading.injection import clean
from raypipe.judge.endpoint import (
    NO_KEY,
    OPENAI_URL,
    base_url_of,
    find_key,
    host_of,
    is_loopback,
    retry_after_s,
)
from raypipe.settings import JudgeSettings

_REFUSED = {401: "the key", 402: "the account", 403: "the key", 404: "the address or the model"}
_MAY_PASS = frozenset({408, 409, 425})
_MAY_BE_PAID = frozenset({408, 502, 504})  # what stands before the model gave up on it
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_LONGEST_WHY = 200
_LEAST_SECRET = 8  # characters: what is shorter, such as "x" for a local server, is part of any text


class Kind(StrEnum):
    """What a failed request means."""

    LIMITED = "limited"
    PASSING = "passing"
    REFUSED = "refused"  # this request
    CLOSED = "closed"  # every request


@dataclass(frozen=True)
class Form:
    """How the endpoint takes a request: with a JSON schema or not, and what it calls the longest reply."""

    schema: bool = True
    length: str = "max_tokens"


@dataclass(frozen=True)
class Call:
    """One request: what the judge is told and shown, and the form of its reply."""

    name: str
    system: str
    user: str
    schema: Mapping[str, Any]
    form: Form = Form()


@dataclass(frozen=True)
class Reply:
    """What came back; "" stands for what the endpoint does not say, None for tokens it does not count."""

    text: str
    model: str
    fingerprint: str
    prompt_tokens: int | None
    reply_tokens: int | None


@dataclass(frozen=True)
class Fault:
    """No reply: what it means, why in words, how long the endpoint asks to wait, whether it may be paid."""

    kind: Kind
    why: str
    status: int = 0
    retry_after_s: float | None = None
    paid: bool = False


class Sender(Protocol):
    """Sends requests, many at once."""

    async def send(self, call: Call) -> Reply | Fault: ...

    async def close(self) -> None: ...


class Client:
    """The openai client with its own tries turned off; belongs to one event loop.

    Raises:
        RequestError: no key for an endpoint that is not on this machine, or a bad address.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._key = find_key(settings)
        self._host = host_of(settings)
        url = base_url_of(settings)
        # A proxy of the environment cannot reach this machine's own addresses.
        http = openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(url))
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=self._key, timeout=settings.timeout_s, max_retries=0, http_client=http
        )
        if not url.startswith(OPENAI_URL):  # whose account at OpenAI it is concerns no other endpoint
            self._client.organization = self._client.project = None

    def __repr__(self) -> str:
        return f"Client({self._settings.name!r}, {self._settings.model!r} at {self._host})"

    def __reduce__(self) -> Any:
        raise TypeError("a client holds the key and stays in its process")

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def send(self, call: Call) -> Reply | Fault:
        """Asks once. Never raises for what the endpoint or the network does."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return self._reply_of(await self._complete(call))
        except openai.APIStatusError as fault:
            return self._refusal(fault)
        except (TimeoutError, openai.APITimeoutError):
            why = f"no reply within {self._settings.timeout_s:g} s"
            return Fault(Kind.PASSING, why, paid=True)
        except openai.APIConnectionError as fault:
            refused = isinstance(_root(fault), ConnectionRefusedError)
            return Fault(Kind.PASSING, f"connection broken ({type(fault).__name__})", paid=not refused)
        except (openai.APIError, ValueError, RecursionError) as fault:
            return Fault(Kind.PASSING, f"reply broken ({type(fault).__name__})", paid=True)

    async def _complete(self, call: Call) -> Any:
        more: dict[str, Any] = {call.form.length: self._settings.max_reply_tokens}
        if call.form.schema:
            schema = {"name": call.name.replace("/", "_"), "strict": True, "schema": dict(call.schema)}
            more["response_format"] = {"type": "json_schema", "json_schema": schema}
        return await self._client.chat.completions.create(
            model=self._settings.model,
            messages=[{"role": "system", "content": call.system}, {"role": "user", "content": call.user}],
            temperature=self._settings.temperature,
            extra_body=more,  # as it is: the client would look through every part of the schema, each time
        )

    def _reply_of(self, completion: Any) -> Reply:
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
            text=self._safe(content) if isinstance(content, str) else "",
            model=self._safe(str(completion.model or "")),
            fingerprint=self._safe(str(getattr(completion, "system_fingerprint", None) or "")),
            prompt_tokens=_count_of(getattr(usage, "prompt_tokens", None)),
            reply_tokens=_count_of(getattr(usage, "completion_tokens", None)),
        )

    def _refusal(self, fault: openai.APIStatusError) -> Fault:
        status = fault.status_code
        said = " ".join(self._safe(str(fault.message)).split())[:_LONGEST_WHY]
        why = f"HTTP {status}: {said}"
        quota = bool({str(fault.code), str(fault.type)} & _QUOTA)
        if quota or status in _REFUSED:
            what = "the quota" if quota else _REFUSED[status]
            return Fault(Kind.CLOSED, f"refuses {what} for model {self._settings.model} ({why})", status)
        asked_s = retry_after_s(fault.response.headers)
        if status == 429:
            return Fault(Kind.LIMITED, why, status, asked_s)
        if status >= 500 or status in _MAY_PASS:
            return Fault(Kind.PASSING, why, status, asked_s, status in _MAY_BE_PAID)
        return Fault(Kind.REFUSED, why, status)

    def _safe(self, text: str) -> str:
        """Text that can be stored and shown: valid Unicode without the key."""
        text = clean(text)
        secret = self._key != NO_KEY and len(self._key) >= _LEAST_SECRET
        return text.replace(self._key, "<key>") if secret else text


def _count_of(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**31 else None


def _root(fault: BaseException) -> BaseException:
    while fault.__cause__ is not None:
        fault = fault.__cause__
    return fault
