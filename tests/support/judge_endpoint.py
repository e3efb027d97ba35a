"""A scripted OpenAI-compatible endpoint on 127.0.0.1: a real server that fails in the ways real ones do.

A script is a list of steps, one a request, in the order the requests come; after it the endpoint
answers every request with a good verdict. Each request is kept in ``calls`` with the step it met, so a
test can say that its fault was really met.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raypipe.demo.loopback import LoopbackHandler, LoopbackServer

MODEL = "scripted-judge-0613"
CODE = "<code>"  # in what an endpoint says: the code of the call it answers
GOOD = '{"code": "<code>", "verdict": "yes", "score": 5}'


def good(**values: Any) -> str:
    """A readable reply with these values."""
    return json.dumps({"code": CODE, **values})


@dataclass(frozen=True)
class Say:
    """A chat completion with this content."""

    content: str | None = GOOD
    usage: tuple[int, int] | None = (100, 10)  # prompt tokens, reply tokens
    model: str = MODEL
    delay_s: float = 0.0
    fingerprint: str | None = None


@dataclass(frozen=True)
class Refuse:
    """An HTTP error with an OpenAI error body."""

    status: int
    message: str = "refused"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Raw:
    """Any bytes with status 200."""

    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Hang:
    """No reply for so long."""

    seconds: float


@dataclass(frozen=True)
class Reset:
    """The connection is reset without a reply."""


Step = Say | Refuse | Raw | Hang | Reset


@dataclass(frozen=True)
class Call:
    """One request as it came: when (monotonic seconds), with which headers and body, and the step it met."""

    at_s: float
    headers: dict[str, str]
    body: dict[str, Any]
    step: Step

    @property
    def message(self) -> dict[str, str]:
        """The user message, which must be one JSON object of texts."""
        return message_of(self.body)

    @property
    def shown(self) -> dict[str, str]:
        """What the judge was shown: the user message without the code."""
        return {name: text for name, text in self.message.items() if name != "code"}


def message_of(body: dict[str, Any]) -> dict[str, str]:
    return json.loads(body["messages"][-1]["content"])


@dataclass
class Faults:
    """Replies that fail by chance, by the same chance each time: seed, question and number of its request.

    ``shares`` are those of the steps; the rest is answered by ``good``. A step of ``once`` a question meets
    one time at most. ``fired`` counts what was met.
    """

    shares: dict[Step, float]
    good: Callable[[dict[str, str]], Step]
    once: frozenset[Step] = frozenset()
    seed: int = 0
    fired: dict[Step, int] = field(default_factory=dict)
    _met: dict[str, list[Step]] = field(default_factory=dict)

    def __call__(self, shown: dict[str, str]) -> Step:
        step = self.next(shown)
        self._met.setdefault(shown["predicted_answer"], []).append(step)
        self.fired[step] = self.fired.get(step, 0) + 1
        return step

    def next(self, shown: dict[str, str]) -> Step:
        """What the next request with this question meets."""
        name = shown["predicted_answer"]
        met = self._met.get(name, [])
        steps, weights = zip(*self.shares.items(), strict=True)
        luck = random.Random(f"{self.seed}/{name}/{len(met)}")
        (step,) = luck.choices([None, *steps], [1 - sum(weights), *weights])
        if step is None or (step in self.once and step in met):
            step = self.good(shown)
        return step


class JudgeEndpoint:
    """The server; a context manager.

    Args:
        script: the first steps; when a request wants a JSON schema and ``no_schema`` is set it is
            refused with 400 and no step is used.
        then: the step of every request after the script, or a function of what the judge is shown.
    """

    def __init__(
        self,
        script: Sequence[Step] = (),
        *,
        then: Step | Callable[[dict[str, str]], Step] = Say(),
        no_schema: bool = False,
    ) -> None:
        self.calls: list[Call] = []
        self.busiest = 0  # requests under way at once, at most, without those that hang
        self._script, self._then, self._no_schema = list(script), then, no_schema
        self._lock, self._busy = threading.Lock(), 0
        self._server = _Server(_Handler)
        self._server.endpoint = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def base_url(self) -> str:
        return self._server.base_url

    @property
    def met(self) -> list[Step]:
        """The steps that were met, in order."""
        return [call.step for call in self.calls]

    def __enter__(self) -> JudgeEndpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def code_of(self, body: dict[str, Any]) -> str:
        """The code that a reply to this request has to repeat."""
        return message_of(body).get("code", "")

    def begin(self, headers: dict[str, str], body: dict[str, Any]) -> Step:
        with self._lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            if self._no_schema and "response_format" in body:
                step: Step = Refuse(400, "response_format of type 'json_schema' is not supported")
            elif self._script:
                step = self._script.pop(0)
            elif callable(self._then):
                step = self._then(message_of(body))
            else:
                step = self._then
            self.calls.append(Call(time.monotonic(), headers, body, step))
            return step

    def end(self) -> None:
        with self._lock:
            self._busy -= 1


class _Server(LoopbackServer):
    endpoint: JudgeEndpoint


class _Handler(LoopbackHandler):
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        step = self.server.endpoint.begin({k.lower(): v for k, v in self.headers.items()}, body)
        # It ends before the reply is sent: the client's next request may be here before this thread goes on.
        if isinstance(step, Hang):
            self.server.endpoint.end()
            self.hang(step.seconds)
            return
        time.sleep(step.delay_s if isinstance(step, Say) else 0.0)
        self.server.endpoint.end()
        self._play(step, self.server.endpoint.code_of(body))

    def _play(self, step: Step, code: str) -> None:
        if isinstance(step, Reset):
            self.reset()
        elif isinstance(step, Raw):
            self.send(200, step.body, {"Content-Type": step.content_type})
        elif isinstance(step, Refuse):
            error = {"message": step.message, "type": "error", "code": step.code}
            self.send(step.status, json.dumps({"error": error}).encode(), step.headers)
        elif isinstance(step, Say):
            self.send(200, json.dumps(_completion(step, code)).encode())


def _completion(step: Say, code: str) -> dict[str, Any]:
    content = None if step.content is None else step.content.replace(CODE, code)
    message = {"role": "assistant", "content": content}
    value: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": step.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    if step.fingerprint:
        value["system_fingerprint"] = step.fingerprint
    if step.usage:
        prompt, reply = step.usage
        value["usage"] = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
    return value
