"""Questions about pictures to a model behind an OpenAI-compatible endpoint: the judge's client and governor.

What the ends of a call mean, when it is tried again and when the run stops is as with the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from raypipe.errors import RaypipeError, ServiceError
from raypipe.judge.asker import MAX_FAILURES_IN_A_ROW, Asker, NoReply
from raypipe.judge.client import Call, Client, Form, Reply
from raypipe.judge.endpoint import host_of
from raypipe.judge.gate import Gate
from raypipe.judge.governor import Governor, Limits
from raypipe.settings import JudgeSettings, ServedSettings


class EndpointSettings(JudgeSettings):
    """The endpoint of a model under test, as the client takes it."""

    role: ClassVar[str] = "model"
    group: ClassVar[str] = "served"

    @classmethod
    def of(cls, served: ServedSettings, model: str) -> EndpointSettings:
        shared = (
            "base_url",
            "key_file",
            "key_env",
            "concurrency",
            "requests_per_minute",
            "timeout_s",
            "tries",
        )
        return cls(name="model", model=model, **{name: getattr(served, name) for name in shared})


@dataclass(frozen=True)
class PictureCall(Call):
    """One question: ``pictures`` are data URLs, shown in their order before the text ``user``."""

    pictures: tuple[str, ...] = ()
    detail: str | None = None
    max_new_tokens: int = 16

    @classmethod
    def of(
        cls, prompt: str, pictures: Sequence[str], max_new_tokens: int, system: str, detail: str | None
    ) -> PictureCall:
        return cls("answer", system, prompt, {}, Form(schema=False), tuple(pictures), detail, max_new_tokens)

    def messages(self) -> list[dict[str, Any]]:
        """As the endpoint takes them."""
        detail = {"detail": self.detail} if self.detail else {}
        shown = [{"type": "image_url", "image_url": {"url": url, **detail}} for url in self.pictures]
        told = [{"role": "system", "content": self.system}] if self.system else []
        return [*told, {"role": "user", "content": [*shown, {"type": "text", "text": self.user}]}]


class PictureClient(Client):
    """Sends such questions."""

    async def _complete(self, call: Call) -> Any:
        if not isinstance(call, PictureCall):
            raise TypeError("not a question about pictures")
        messages: Any = call.messages()
        more: dict[str, Any] = {call.form.length: call.max_new_tokens}
        return await self._client.chat.completions.create(
            model=self._settings.model, messages=messages, temperature=self._settings.temperature, **more
        )


class PictureAsker(Asker):
    """Asks many questions at once, each until it has an answer or a reason for none; of one event loop.

    Raises:
        RequestError: no key for an endpoint that is not on this machine, or a bad address.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        limits = Limits(settings.concurrency, settings.requests_per_minute)
        gate = Gate(Governor(limits), f"the {settings.role} at {host_of(settings)}", lambda usd: None)
        self._client = PictureClient(settings)
        super().__init__(settings, self._client, gate)
        self._form = Form(schema=False)
        self._in_a_row = 0

    async def ask(self, call: PictureCall) -> Reply:
        """The answer to one question.

        Raises:
            NoReply: there is none, and the message says why.
            RaypipeError: the endpoint refuses the run, or fails question after question; each later call
                then raises the same at once.
        """
        try:
            reply = await self._reply(call)
        except NoReply as fault:
            self._in_a_row += 1
            if self._in_a_row >= MAX_FAILURES_IN_A_ROW:
                self.stop(
                    ServiceError(
                        f"{self._who} failed {self._in_a_row} times in a row: {fault}",
                        "see that the endpoint is up; the same command continues",
                    )
                )
            raise
        self._in_a_row = 0
        return reply

    def stop(self, why: RaypipeError) -> None:
        """Lets no further question through."""
        self._gate.stop(why)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()
