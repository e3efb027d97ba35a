"""Files of questions and files of right answers, as most benchmarks have them: read, then joined by content.

LLaVA's question files are JSON lines ``{"question_id", "image", "text"}`` about an image each, whose text
ends in the benchmark's answering instruction. What is right stands in a second file, mostly of another
release; ``Truth`` holds it, and refuses whatever the two do not agree on, so that no answer is graded against
the right answer to another question.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from raypipe.benchmark import make_question, without_suffix
from raypipe.errors import RequestError
from raypipe.eval_root import SHOWN, Row, field, medium_path, read_json_lines
from raypipe.records import MediumKind, MediumRef, Question

Value = TypeVar("Value")
SAME_RELEASE = "take both files from the same release"


@dataclass(frozen=True)
class Asked:
    """A row of a question file: ``prompt`` as it stands, ``bare`` without the answering instruction."""

    row: Row
    where: str
    row_id: str
    image: str
    prompt: str
    bare: str
    medium: MediumRef

    def question(
        self,
        benchmark: str,
        reference: str,
        category: str = "",
        extra: dict[str, Any] | None = None,
        tags: tuple[str, ...] = (),
    ) -> Question:
        """The question that this row asks, with its right answer."""
        asked = self.row_id, self.medium, self.prompt, self.bare
        return make_question(benchmark, *asked, reference, category, extra, tags)


def read_asked(path: Path, images: str, suffix: str = "") -> Iterator[Asked]:
    """The rows of one of LLaVA's question files, in its order.

    Args:
        images: the folder of the images below the eval root.
        suffix: the answering instruction that each text ends in.

    Raises:
        RequestError: a damaged row, an image that leads out of its folder, or a text without the instruction.
    """
    for number, row in read_json_lines(path):
        where = f"line {number}"
        row_id, prompt, image = (field(row, name, path, where) for name in ("question_id", "text", "image"))
        medium = MediumRef(MediumKind.IMAGE, medium_path(images, image, path, where))
        yield Asked(row, where, row_id, image, prompt, without_suffix(prompt, suffix, path, where), medium)


class Truth(Generic[Value]):
    """What a file says about each question, by key: the id, or image and wording.

    Attributes:
        path: the file.
        remedy: what to do where it does not fit the questions.
    """

    def __init__(self, path: Path, remedy: str = SAME_RELEASE) -> None:
        self.path, self.remedy = path, remedy
        self._entries: dict[Hashable, Value] = {}
        self._taken: set[Hashable] = set()

    def add(self, key: Hashable, value: Value, where: str) -> None:
        """Notes an entry; the same one may stand there twice.

        Raises:
            RequestError: another one came before.
        """
        if self._entries.setdefault(key, value) != value:
            raise RequestError(f"{self.path}, {where}: another entry for {_shown(key)} came before")

    def take(self, key: Hashable, asked_at: str) -> Value:
        """The entry of a question, which is asked but once.

        Raises:
            RequestError: there is none, or it has been taken.
        """
        if key not in self._entries:
            raise self.disagreement(f"{asked_at}: {_shown(key)} is not in {self.path.name}")
        if key in self._taken:
            raise self.disagreement(f"{asked_at}: {_shown(key)} is asked a second time")
        self._taken.add(key)
        return self._entries[key]

    def expect_all_taken(self, asked: Path) -> None:
        """To be called at the end of the question file.

        Raises:
            RequestError: an entry is about a question that was not asked.
        """
        left = self._entries.keys() - self._taken
        if left:
            example = _shown(min(left, key=str))
            raise self.disagreement(
                f"{self.path} holds {len(left)} questions that {asked.name} does not ask, "
                f"for example {example}"
            )

    def disagreement(self, message: str) -> RequestError:
        """The error for two files that do not fit."""
        return RequestError(message, self.remedy)


def plain(text: str) -> str:
    """For comparing the wording of two files: lower case, single spaces."""
    return " ".join(text.lower().split())


def _shown(key: Hashable) -> str:
    parts = reversed(key) if isinstance(key, tuple) else [key]
    return " on ".join(repr(part)[:SHOWN] for part in parts)
