"""How a conversation is spelled: one entry per chat template, as pieces that need no tokenizer yet.

``v1``, ``llava_v1`` and ``plain`` are the reference's (docs/from_video_llava.md); ``chatml`` is Qwen2's,
spelled as the conversion script of transformers writes it for LLaVA-OneVision.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raypipe.records import MediumKind, Turn

TAGS = {"<image>": MediumKind.IMAGE, "<video>": MediumKind.VIDEO}
TAG = re.compile("|".join(re.escape(t) for t in TAGS))
TAG_OF = {kind: tag for tag, kind in TAGS.items()}


class Piece(NamedTuple):
    """A part of a spelled conversation: text, one of the template's special tokens, or a medium.

    Neighbouring texts are tokenised together, but for one that stands ``apart`` from what is before it.
    """

    text: str
    learned: bool = False
    special: bool = False
    medium: MediumKind | None = None
    apart: bool = False


@dataclass(frozen=True)
class Template:
    """A chat template of two roles.

    Attributes:
        system: what stands before the first turn, or nothing.
        tokens: its special tokens; the tokenizer has to have them.
        begin: the token that every conversation begins with, or nothing.
        question: what is written before and after a question.
        answer: what is written before and after an answer; it is not learned.
        lead: what an answer begins with; learned with it.
        closing: what ends an answer; learned with it.
        apart: answers are tokenised for themselves, so that what is asked is always what was trained.
        closes_empty: an empty answer is closed too (nothing of it is learned); else nothing is written.
        captions: of a question only its media are written, and there is one question with its answer.
    """

    name: str
    system: str = ""
    tokens: tuple[str, ...] = ("<s>", "</s>")
    begin: str = "<s>"
    question: tuple[str, str] = ("USER: ", " ")
    answer: tuple[str, str] = ("ASSISTANT:", "")
    lead: str = " "
    closing: str = "</s>"
    apart: bool = False
    closes_empty: bool = False
    captions: bool = False

    def spell(self, turns: Sequence[Turn], tagged: bool) -> Iterator[Piece]:
        """The pieces of a whole conversation; tags in a question stand for media where it is ``tagged``."""
        yield from self._opening()
        for turn in turns:
            if turn.role == "human":
                yield from self._question(_at_tags(turn.text) if tagged else [Piece(turn.text)])
            else:
                yield from self._answer(turn.text)

    def ask(self, question: str, kinds: Sequence[MediumKind]) -> Iterator[Piece]:
        """The pieces of one question, its media before it, up to where the answer begins."""
        media = [Piece(TAG_OF[kind], medium=kind) for kind in kinds]
        yield from self._opening()
        yield from self._question([*media, Piece(f"\n{question}" if media else question)])
        yield from self._written(self.answer[0])

    def _opening(self) -> Iterator[Piece]:
        if self.begin:
            yield Piece(self.begin, special=True)
        if self.system:
            yield Piece(self.system + " ")

    def _question(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        yield from self._written(self.question[0])
        for piece in pieces:
            if piece.medium or not self.captions:
                yield piece
        yield from self._written(self.question[1])

    def _answer(self, text: str) -> Iterator[Piece]:
        yield from self._written(self.answer[0])
        if text:
            yield Piece(self.lead + text, learned=True, apart=self.apart)
        if text or self.closes_empty:
            yield from self._written(self.closing, learned=bool(text))
            yield from self._written(self.answer[1])

    def _written(self, text: str, learned: bool = False) -> Iterator[Piece]:
        """A part of the template itself: here, and only here, its special tokens are read as such."""
        return iter(_cut(text, learned, self.tokens))


@functools.lru_cache(maxsize=1024)
def _cut(text: str, learned: bool, tokens: tuple[str, ...]) -> tuple[Piece, ...]:
    return tuple(at_tokens(Piece(text, learned), tokens))


def at_tokens(piece: Piece, tokens: Sequence[str]) -> Iterator[Piece]:
    """A text cut at every one of the tokens; what stands apart does so with its first part."""
    if not tokens:
        yield from [piece] if piece.text else []
        return
    apart = piece.apart
    for part in _any_of(tuple(tokens)).split(piece.text):
        if part:
            yield Piece(part, piece.learned, special=part in tokens, apart=apart)
            apart = False


@functools.cache
def _any_of(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, tokens))})")


def _at_tags(text: str) -> list[Piece]:
    parts = re.split(f"({TAG.pattern})", text)
    return [Piece(part, medium=TAGS.get(part)) for part in parts if part]


_SYSTEM = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)
_SPOKEN = (
    Template("v1", _SYSTEM.format(who="user")),
    Template("llava_v1", _SYSTEM.format(who="human")),
    Template(
        "plain",
        tokens=("<s>",),
        question=("", ""),
        answer=("", ""),
        lead="",
        closing="\n",
        captions=True,
    ),
    Template(
        "chatml",
        tokens=("<|im_start|>", "<|im_end|>"),
        begin="",
        question=("<|im_start|>user\n", "<|im_end|>\n"),
        answer=("<|im_start|>assistant\n", "\n"),
        lead="",
        closing="<|im_end|>",
        apart=True,
        closes_empty=True,
    ),
)
TEMPLATES = {template.name: template for template in _SPOKEN}
