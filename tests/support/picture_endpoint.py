"""A scripted endpoint that serves a model of pictures: it decodes what it is sent and says what it sees."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.clips import number_of
from tests.support.judge_endpoint import Call, JudgeEndpoint, Say, Step

SNAPSHOT = "pictures-2026-01"


@dataclass(frozen=True)
class Seen:
    """What a request shows: the numbers of its pictures in order, and the text after them."""

    numbers: tuple[int, ...]
    text: str
    types: tuple[str, ...]


def seen(body: dict[str, Any]) -> Seen:
    """Reads a request; anything but pictures before one text fails."""
    *pictures, text = body["messages"][-1]["content"]
    assert text["type"] == "text"
    assert all(part["type"] == "image_url" for part in pictures)
    urls = [part["image_url"]["url"].partition(",") for part in pictures]
    numbers = tuple(number_of(base64.b64decode(data, validate=True)) for _, _, data in urls)
    return Seen(numbers, text["text"], tuple(head for head, _, _ in urls))


def what_it_sees(shown: Seen) -> str:
    return " ".join(map(str, shown.numbers)) or "nothing"


class PictureEndpoint(JudgeEndpoint):
    """The server; a context manager.

    Args:
        script: the first steps; after it each request is answered by ``answer``.
    """

    def __init__(
        self,
        script: Sequence[Step] = (),
        *,
        answer: Callable[[Seen], str | Step] = what_it_sees,
        model: str = SNAPSHOT,
        delay_s: float = 0.0,
    ) -> None:
        super().__init__(script)
        self._answer, self.model, self._delay_s = answer, model, delay_s

    def code_of(self, body: dict[str, Any]) -> str:
        return ""

    def begin(self, headers: dict[str, str], body: dict[str, Any]) -> Step:
        with self._lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            step = self._script.pop(0) if self._script else self._answer_to(body)
            self.calls.append(Call(time.monotonic(), headers, body, step))
            return step

    @property
    def asked(self) -> list[Seen]:
        """What was shown with pictures or without, the probe left out."""
        return [seen(c.body) for c in self.calls if not seen(c.body).text.startswith("Reply with")]

    def _answer_to(self, body: dict[str, Any]) -> Step:
        said = self._answer(seen(body))
        return Say(said, model=self.model, delay_s=self._delay_s) if isinstance(said, str) else said
