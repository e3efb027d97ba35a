"""A served model as an engine: each question is a request with the frames of its medium as pictures.

Questions go out together, as many at once as the settings allow; a refused one gets a reply that says so.
What would refuse all of them (the key, the address, a quota) stops the run, and so does an endpoint that
answers with another model than the run was planned with: answers of two models are never mixed.
"""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image

from raypipe.errors import RequestError, ServiceError
from raypipe.evaluate.engine import UNCUT, Reply, Shown, Split, Way
from raypipe.judge.asker import NoReply
from raypipe.judge.pictures import EndpointSettings, PictureAsker, PictureCall
from raypipe.records import fingerprint
from raypipe.settings import EvaluateSettings, Rendition, Sampling, ServedSettings

T = TypeVar("T")
UNITS_AT_ONCE = 4  # so that the last questions of a unit hold up no other one
PROBE, PROBE_TOKENS = "Reply with the word OK.", 16
SMALLER = 0.8  # of each side, until a frame fits
LEAST_SIDE = 16
TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class ServedCard:
    """How media are shown to a model that has no card: eight frames, and larger ones than for training."""

    template: str = "served"
    image_aspect: str = "kept"
    sampling: Sampling = field(default_factory=Sampling)
    rendition: Rendition = field(default_factory=lambda: Rendition(short_side=448, quality=90))


def served_weights(model: str, snapshot: str, served: ServedSettings) -> str:
    """Names a served model: what it is asked for as, what the endpoint calls it, and how it is asked."""
    return fingerprint("served", model, snapshot, served.system, served.detail, served.max_image_bytes)


def snapshot_of(settings: EvaluateSettings) -> str:
    """What the endpoint calls the model that it answers with; one short question is asked for it.

    Raises:
        RequestError: no key, or a bad address.
        ServiceError: the endpoint refuses, or does not answer.
    """
    engine = ServedEngine(settings)
    try:
        return engine.probe()
    finally:
        engine.close()


class ServedEngine:
    """Asks one endpoint, from a thread with an event loop of its own. Threads may share it.

    Args:
        weights: the name that every answer's model must have (see ``served_weights``); "": any.

    Raises:
        RequestError: no key for an endpoint that is not on this machine, or a bad address.
    """

    at_once = UNITS_AT_ONCE

    def __init__(self, settings: EvaluateSettings, weights: str = "") -> None:
        if settings.served is None:
            raise RequestError("the settings name no endpoint", "set engine=served and served.base_url=...")
        self._served, self._model, self._weights = settings.served, settings.model, weights
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="raypipe-served", daemon=True)
        self._thread.start()
        try:
            self._asker = self._run(self._open())
        except BaseException:
            self._end()
            raise

    def __reduce__(self) -> Any:
        raise TypeError("an engine holds the key and stays in its process")

    def answer(
        self,
        shown: Sequence[Shown],
        way: Way,
        *,
        split: Split = UNCUT,
        on_split: Callable[[Split], None] | None = None,
    ) -> list[list[Reply]]:
        """As ``Engine`` says. Nothing is ever cut: each question is a request of its own.

        Raises:
            ServiceError: the endpoint refuses the run; the same command continues it.
        """
        return self._run(self._answer(shown, way))

    def probe(self) -> str:
        """The model as the endpoint names it in a reply.

        Raises:
            ServiceError: no reply.
        """
        call = PictureCall.of(PROBE, (), PROBE_TOKENS, "", None)
        try:
            return self._run(self._asker.ask(call)).model
        except NoReply as fault:
            raise ServiceError(
                f"the model at {self._served.base_url} does not answer: {fault}", "see that it is up"
            ) from None

    def close(self) -> None:
        """Closes the connections and ends the thread."""
        if self._thread.is_alive():
            self._run(self._asker.close())
            self._end()

    async def _open(self) -> PictureAsker:
        return PictureAsker(EndpointSettings.of(self._served, self._model))

    async def _answer(self, shown: Sequence[Shown], way: Way) -> list[list[Reply]]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._about(one, way)) for one in shown]
        return [task.result() for task in tasks]

    async def _about(self, one: Shown, way: Way) -> list[Reply]:
        """The answers about one medium."""
        try:
            pictures = await asyncio.to_thread(self._pictures, one.frames)
        except (OSError, ValueError) as fault:
            return [Reply("", 0, f"a frame cannot be shown: {str(fault)[:200]}") for _ in one.prompts]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(prompt, pictures, way)) for prompt in one.prompts]
        return [task.result() for task in tasks]

    async def _one(self, prompt: str, pictures: Sequence[str], way: Way) -> Reply:
        served = self._served
        call = PictureCall.of(prompt, pictures, way.max_new_tokens, served.system, served.detail)
        try:
            reply = await self._asker.ask(call)
        except NoReply as fault:
            return Reply("", 0, str(fault))
        self._check(reply.model)
        return Reply(reply.text.strip(), reply.reply_tokens or 0)

    def _check(self, snapshot: str) -> None:
        if self._weights and served_weights(self._model, snapshot, self._served) != self._weights:
            fault = ServiceError(
                f"{self._model} is now answered by {snapshot!r}, which is not what this run was begun with",
                "the same command begins anew with it; name another out= to keep the old answers",
            )
            self._asker.stop(fault)
            raise fault

    def _pictures(self, frames: Sequence[bytes]) -> tuple[str, ...]:
        return tuple(data_url(fitted(frame, self._served.max_image_bytes)) for frame in frames)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except BaseExceptionGroup as group:
            raise _first(group) from None

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def data_url(frame: bytes) -> str:
    """An encoded picture as a data URL.

    Raises:
        ValueError: neither PNG, JPEG nor WebP.
    """
    kind = next((name for begin, name in TYPES.items() if frame.startswith(begin)), None)
    if kind is None:
        raise ValueError("a frame in a format that endpoints do not take")
    return f"data:{kind};base64,{base64.b64encode(frame).decode()}"


def fitted(frame: bytes, most: int) -> bytes:
    """The same picture in at most so many bytes: as it is, else as JPEG, smaller step by step.

    Raises:
        ValueError: it does not fit at any size.
    """
    if len(frame) <= most:
        return frame
    with Image.open(io.BytesIO(frame)) as opened:
        picture = opened.convert("RGB")
    while min(picture.size) >= LEAST_SIDE:
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=90)
        if out.tell() <= most:
            return out.getvalue()
        smaller = (max(1, round(picture.width * SMALLER)), max(1, round(picture.height * SMALLER)))
        picture = picture.resize(smaller, Image.Resampling.BICUBIC)
    raise ValueError(f"a frame does not fit into {most} bytes")


def _first(group: BaseExceptionGroup) -> BaseException:
    """What a group of tasks failed of: the first of its faults."""
    fault: BaseException = group
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault
