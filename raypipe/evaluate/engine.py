"""What an engine is: media with the questions on them in, one reply a question out. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from raypipe.records import MediumKind


@dataclass(frozen=True)
class Shown:
    """One medium with all questions of a unit on it.

    Attributes:
        kind: None: the questions have no medium.
        frames: encoded pictures in order; none without a medium. An engine in this process also takes frames
            that were made ready for its model (``model.pictures``).
        prompts: what is asked, as text.
    """

    kind: MediumKind | None
    frames: tuple[bytes, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Way:
    """How all of them are asked: greedy, in one chat template.

    Attributes:
        aspect: "pad" or "square": how an image becomes a square (see ``model.pixels``).
        max_new_tokens: the most tokens of an answer; an answer also ends where the model's context does.
    """

    template: str
    aspect: str
    max_new_tokens: int


@dataclass(frozen=True)
class Reply:
    """An answer, or why there is none; then ``text`` is "" and it is no answer.

    Attributes:
        tokens: its ids, where the engine has them.
    """

    text: str
    new_tokens: int
    failed: str = ""
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Split:
    """Where an engine cut its batches because they did not fit; a plain record, to be stored and given back.

    The same media, questions and way with the same split make the same batches.

    Attributes:
        batch: the most questions in a batch that the cuts were made under; 0: nothing was cut yet.
        questions: places, in the engine's order of the questions, at which a batch ends.
        media: the same of the media whose prefixes are made together.
    """

    batch: int = 0
    questions: tuple[int, ...] = ()
    media: tuple[int, ...] = ()

    def row(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Split:
        """What ``row`` made."""
        return cls(int(row["batch"]), tuple(row["questions"]), tuple(row["media"]))


UNCUT = Split()


class Engine(Protocol):
    """What answers: a model in this process, or one that is served elsewhere."""

    def answer(
        self,
        shown: Sequence[Shown],
        way: Way,
        *,
        split: Split = UNCUT,
        on_split: Callable[[Split], None] | None = None,
    ) -> list[list[Reply]]:
        """One list for each medium, in it one reply for each of its questions, both in the order given.

        A question that cannot be answered gets a reply that says so; it is no reason to raise.

        Args:
            split: as an earlier call on the same media, questions and way told it.
            on_split: told the whole split so far the moment a batch is cut, before the engine goes on.
        """
        ...

    def close(self) -> None:
        """Lets go of what the engine holds. It answers nothing after it."""
        ...
