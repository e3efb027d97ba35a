"""Conversations -> token ids and labels; the only place that knows what of a chat is learned.

A template spells the conversation as pieces (``templates.py``). Its own special tokens and the places
of the media are put in by id; everything else is text and is read as nothing but text, so that neither
``</s>`` nor ``<image>`` in what somebody wrote can end an answer or take a place. Text between two of
those ids is tokenised for itself, as the reference does. What is learned is each answer to its closing
token: found by character offsets, so the mask is right for any tokenizer.
"""

from __future__ import annotations

import bisect
import json
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter
from typing import Literal
from weakref import WeakKeyDictionary

from tokenizers import Encoding, Tokenizer

from raypipe.errors import RequestError
from raypipe.records import MediumKind, Reason, Turn
from raypipe.text.templates import TAG, TAGS, TEMPLATES, Piece, Template, at_tokens

__all__ = [
    "IGNORE",
    "TAGS",
    "TEMPLATES",
    "ChatEncoder",
    "ChatError",
    "Encoded",
    "Protocol",
    "Template",
    "VisualTokens",
    "check_turns",
]

IGNORE = -100
SHORT_CHARS, SHORT_TEXTS = 512, 64  # texts up to this length, so many of which are kept tokenised
Protocol = Literal["corrected", "reference"]
PARSED_BY_REFERENCE = ("<unk>", "<s>", "</s>")


class ChatError(ValueError):
    """A conversation that cannot be trained on or asked, with the typed reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class VisualTokens:
    """What stands for one medium in a model's input: a placeholder id, repeated ``count`` times."""

    token_id: int
    count: int


class Encoded:
    """Token ids and labels of one conversation, equally long; labels are -100 where nothing is learned.

    Kept in arrays of 64-bit numbers, from which a batch is filled without a look at each number.
    """

    __slots__ = ("_ids", "_labels")

    def __init__(self, ids: Iterable[int], labels: Iterable[int]) -> None:
        self._ids = ids if isinstance(ids, array) else array("q", ids)
        self._labels = labels if isinstance(labels, array) else array("q", labels)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self._ids)

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(self._labels)

    @property
    def arrays(self) -> tuple[array[int], array[int]]:
        """Ids and labels as they are kept; only to be read."""
        return self._ids, self._labels

    @property
    def learned(self) -> int:
        """How many positions carry a label."""
        return len(self) - self._labels.count(IGNORE)

    def cut(self, most: int) -> Encoded:
        """The first positions alone."""
        return Encoded(self._ids[:most], self._labels[:most])

    def __len__(self) -> int:
        return len(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and self.arrays == other.arrays

    def __hash__(self) -> int:
        return hash((self.ids, self.labels))

    def __repr__(self) -> str:
        return f"Encoded(ids={self.ids}, labels={self.labels})"


def check_turns(turns: Sequence[Turn], kinds: Sequence[MediumKind]) -> tuple[Turn, ...]:
    """The turns that are trained on: a leading answer is dropped, roles alternate, tags match the media.

    Every medium has its tag, in this order, in a question; however many they are (the reference keeps a
    random 16 of more images, and one of several videos). Without media a tag is text like any other.

    Raises:
        ChatError: BAD_RECORD, BAD_TAGS or NOTHING_TO_LEARN.
    """
    kept = list(turns)
    if kept and kept[0].role == "gpt":
        kept = kept[1:]
    if not kept:
        raise ChatError(Reason.BAD_RECORD, "no turn of a human")
    for position, turn in enumerate(kept):
        expected = "human" if position % 2 == 0 else "gpt"
        if turn.role != expected:
            raise ChatError(Reason.BAD_RECORD, f"turn {position + 1} is of '{turn.role}', not '{expected}'")
    answers = [t.text for t in kept if t.role == "gpt"]
    if kinds and any(TAG.search(a) for a in answers):
        raise ChatError(Reason.BAD_TAGS, "an answer holds a media tag")
    if not any(a.strip() for a in answers):
        raise ChatError(Reason.NOTHING_TO_LEARN, "no answer to learn")
    tagged = [TAGS[t] for turn in kept for t in TAG.findall(turn.text)]
    if kinds and tagged != list(kinds):
        have = ", ".join(kinds)
        raise ChatError(Reason.BAD_TAGS, f"tags name ({', '.join(tagged) or 'none'}), the media are ({have})")
    return tuple(kept)


class ChatEncoder:
    """Turns conversations into ids for one model: its tokenizer, template and visual tokens.

    The tokenizer is only read, and an encoder may be used by several threads at once.

    Args:
        tokenizer: the model's; it has to know the template's special tokens.
        visual: what stands for each kind of medium.
        protocol: "corrected": special tokens in what somebody wrote are text. "reference": ``<s>``,
            ``<unk>`` and, where it does not close an answer, ``</s>`` are parsed in it, as the reference
            does. Its mismatch rule, which throws all labels of a sample away where its search for rounds
            fails (as it does over a ``</s>`` in a text of v1), is not repeated: every answer is learned.

    Raises:
        RequestError: the tokenizer lacks a special token of the template, or has no way to spell it as text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        visual: dict[MediumKind, VisualTokens],
        protocol: Protocol = "corrected",
    ) -> None:
        self._tokenizer, self.template, self.visual = tokenizer, template, visual
        known = {t: tokenizer.token_to_id(t) for t in (*PARSED_BY_REFERENCE, *template.tokens)}
        self._ids = {token: number for token, number in known.items() if number is not None}
        self._literal = _literal(tokenizer)
        self._places = {
            kind: (_times(v.token_id, v.count), _times(IGNORE, v.count)) for kind, v in visual.items()
        }
        self._again = lru_cache(SHORT_TEXTS)(self._tokenised)  # what opens a chat is the same in every sample
        parsed = [t for t in PARSED_BY_REFERENCE if t != template.closing] if protocol == "reference" else []
        self._parsed = tuple(t for t in parsed if t in self._ids)
        _expect_tokens(tokenizer, template)
        self._expect_text()

    def training(self, turns: Sequence[Turn], kinds: Sequence[MediumKind]) -> Encoded:
        """Ids and labels of a whole conversation.

        Raises:
            ChatError: the conversation cannot be trained on.
        """
        return self._encode(self._pieces(turns, kinds))

    def spelled(self, turns: Sequence[Turn], kinds: Sequence[MediumKind]) -> str:
        """A whole conversation as a person would read it: each medium is its tag, the opening token left out.

        Raises:
            ChatError: the conversation cannot be trained on.
        """
        return "".join(p.text for p in self._pieces(turns, kinds)).removeprefix(self.template.begin)

    def prompt(self, question: str, kinds: Sequence[MediumKind] = ()) -> tuple[int, ...]:
        """Ids of one question that the model is to answer; media tags are put in front of it.

        Raises:
            ChatError: the template captions media and there is none.
        """
        self._expect_medium(kinds)
        return self._encode(self.template.ask(question, kinds)).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def _pieces(self, turns: Sequence[Turn], kinds: Sequence[MediumKind]) -> Iterator[Piece]:
        kept = check_turns(turns, kinds)
        self._expect_medium(kinds)
        if self.template.captions and len(kept) != 2:
            raise ChatError(Reason.BAD_RECORD, f"{len(kept)} turns; template {self.template.name} takes two")
        return self.template.spell(kept, tagged=bool(kinds))

    def _expect_medium(self, kinds: Sequence[MediumKind]) -> None:
        if self.template.captions and not kinds:
            raise ChatError(
                Reason.BAD_TAGS, f"no medium; template {self.template.name} takes a medium's caption"
            )

    def _expect_text(self) -> None:
        """A vocabulary may hold a special token as an ordinary word, too: typed text would be read as it."""
        places = {v.token_id for v in self.visual.values()}
        words = [self._tokenizer.id_to_token(i) for i in places if i >= 0]  # the traces' places are -200
        meant = {*places, *(self._ids[t] for t in self.template.tokens)}
        for token in (*self.template.tokens, *TAGS, *filter(None, words)):
            if not meant.isdisjoint(self._literal.encode(token, add_special_tokens=False).ids):
                raise RequestError(
                    f"the tokenizer has {token} as an ordinary word and would read it so in any text",
                    "take a tokenizer in which it is an added special token only",
                )

    def _encode(self, pieces: Iterable[Piece]) -> Encoded:
        ids, labels = array("q"), array("q")
        for run in _runs(self._parse(pieces)):
            first = run[0]
            if first.medium:
                place, unlearned = self._places[first.medium]
                ids += place
                labels += unlearned
            elif first.special:
                ids.append(self._ids[first.text])
                labels.append(ids[-1] if first.learned else IGNORE)
            else:
                self._encode_text(run, ids, labels)
        return Encoded(ids, labels)

    def _encode_text(self, run: Sequence[Piece], ids: array[int], labels: array[int]) -> None:
        """Text that is tokenised together. A token is learned when its last character is."""
        text = "".join(p.text for p in run)
        encoding = self._again(text) if len(text) <= SHORT_CHARS else self._tokenised(text)
        tokens = array("q", encoding.ids)
        ids += tokens
        ends: list[int] = []
        if any(piece.learned != run[0].learned for piece in run):
            lasts, offsets = list(accumulate(len(piece.text) for piece in run)), encoding.offsets
            ends = [bisect.bisect_right(offsets, last, key=itemgetter(1)) for last in lasts[:-1]]
        begin = 0
        for piece, end in zip(run if ends else run[:1], [*ends, len(tokens)], strict=True):
            labels += tokens[begin:end] if piece.learned else _times(IGNORE, end - begin)
            begin = end

    def _tokenised(self, text: str) -> Encoding:
        return self._literal.encode(text, add_special_tokens=False)

    def _parse(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces with special tokens taken out of texts, as far as the protocol wants it."""
        for piece in pieces:
            if piece.special or piece.medium:
                yield piece
            else:
                yield from at_tokens(piece, self._parsed)


def _times(number: int, count: int) -> array[int]:
    return array("q", [number]) * count


def _runs(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Texts that are tokenised together; a special token or a medium for itself."""
    texts: list[Piece] = []
    for piece in pieces:
        single = piece.special or piece.medium
        if texts and (single or piece.apart):
            yield texts
            texts = []
        if single:
            yield [piece]
        else:
            texts.append(piece)
    if texts:
        yield texts


def _expect_tokens(tokenizer: Tokenizer, template: Template) -> None:
    missing = [t for t in template.tokens if tokenizer.token_to_id(t) is None]
    if not missing:
        return
    fitting = [
        other.name
        for other in TEMPLATES.values()
        if all(tokenizer.token_to_id(t) is not None for t in other.tokens)
    ]
    raise RequestError(
        f"the tokenizer lacks {' and '.join(missing)}, which template {template.name} needs",
        f"choose template={'|'.join(fitting)}"
        if fitting
        else "take a tokenizer that has a template's tokens",
    )


_LITERAL: WeakKeyDictionary[Tokenizer, tuple[int, Tokenizer]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def _literal(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that reads special tokens in a text as text; one for each tokenizer, made anew when that grows.

    The flag for this is the tokenizer's own and every thread that uses it would see it, hence a copy.
    Post-processing is left out: it may trim the offsets that labels are found by.
    """
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    with _LOCK:
        known = _LITERAL.get(tokenizer)
        if known is None or known[0] != size:
            body = json.loads(tokenizer.to_str())
            body["post_processor"] = None
            structural = {*TAGS, *(t for template in TEMPLATES.values() for t in template.tokens)}
            for added in body["added_tokens"]:  # only those that are marked as special can be read as text
                added["special"] = added["special"] or added["content"] in structural
            copy = Tokenizer.from_str(json.dumps(body))
            copy.encode_special_tokens = True
            known = _LITERAL[tokenizer] = (size, copy)
        return known[1]
