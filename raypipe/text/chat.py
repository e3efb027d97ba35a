"""Chat templates -> token ids and loss mask; the only place that knows a template.

A conversation is spelled as Vicuna v1 does (``SYSTEM USER: q ASSISTANT: a</s>USER: ...``). The text
is cut at the media tags and each piece is tokenised for itself, as the reference does; a tag becomes
as many placeholder ids as the model has visual tokens for the medium. What is learned is each
answer, from behind ``ASSISTANT:`` to its closing token: found by character offsets, so the mask is
right for any tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from tokenizers import Tokenizer

from raypipe.records import MediumKind, Reason, Turn

IGNORE = -100
TAGS = {"<image>": MediumKind.IMAGE, "<video>": MediumKind.VIDEO}
_TAG = re.compile("|".join(re.escape(t) for t in TAGS))


class ChatError(ValueError):
    """A conversation that cannot be trained on or asked, with the typed reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Template:
    """A two-role chat template: ``system + " "``, then ``role: text`` with the turn's end mark."""

    name: str
    system: str
    user: str = "USER"
    assistant: str = "ASSISTANT"
    end_of_user: str = " "
    end_of_answer: str = "</s>"


_SYSTEM = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions."
)
TEMPLATES = {
    "v1": Template("v1", _SYSTEM.format(who="user")),
    "llava_v1": Template("llava_v1", _SYSTEM.format(who="human")),
}


@dataclass(frozen=True)
class VisualTokens:
    """What stands for one medium in a model's input: a placeholder id, repeated ``count`` times."""

    token_id: int
    count: int


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of one conversation, equally long; labels are -100 where nothing is learned."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def learned(self) -> int:
        """How many positions carry a label."""
        return sum(1 for label in self.labels if label != IGNORE)


def check_turns(turns: Sequence[Turn], kinds: Sequence[MediumKind]) -> tuple[Turn, ...]:
    """The turns that are trained on: a leading answer is dropped, roles alternate, tags match the media.

    Raises:
        ChatError: BAD_RECORD, BAD_TAGS or NOTHING_TO_LEARN.
    """
    kept = list(turns)
    if kept and kept[0].role != "human":
        kept = kept[1:]
    if not kept:
        raise ChatError(Reason.BAD_RECORD, "no turn of a human")
    for position, turn in enumerate(kept):
        expected = "human" if position % 2 == 0 else "gpt"
        if turn.role != expected:
            raise ChatError(Reason.BAD_RECORD, f"turn {position + 1} is of '{turn.role}', not '{expected}'")
    answers = [t.text for t in kept if t.role == "gpt"]
    if any(_TAG.search(a) for a in answers):
        raise ChatError(Reason.BAD_TAGS, "an answer holds a media tag")
    if not any(a.strip() for a in answers):
        raise ChatError(Reason.NOTHING_TO_LEARN, "no answer to learn")
    if any("</s>" in t.text for t in kept):
        raise ChatError(Reason.BAD_RECORD, "a turn holds the closing token </s>")
    tagged = [TAGS[t] for turn in kept for t in _TAG.findall(turn.text)]
    if tagged != list(kinds):
        have = ", ".join(kinds) or "none"
        raise ChatError(Reason.BAD_TAGS, f"tags name ({', '.join(tagged) or 'none'}), the media are ({have})")
    return tuple(kept)


class ChatEncoder:
    """Turns conversations into ids for one model: its tokenizer, template and visual tokens."""

    def __init__(
        self, tokenizer: Tokenizer, template: Template, visual: dict[MediumKind, VisualTokens]
    ) -> None:
        self._tokenizer, self.template, self.visual = tokenizer, template, visual
        bos = tokenizer.token_to_id("<s>")
        if bos is None or tokenizer.token_to_id(template.end_of_answer) is None:
            raise ValueError("the tokenizer lacks <s> or the template's closing token")
        self._bos = int(bos)

    def training(self, turns: Sequence[Turn], kinds: Sequence[MediumKind]) -> Encoded:
        """Ids and labels of a whole conversation.

        Raises:
            ChatError: the conversation cannot be trained on.
        """
        text, spans = self._spell(check_turns(turns, kinds))
        ids, labels = [self._bos], [IGNORE]
        for piece, start, kind in self._pieces(text):
            if kind is not None:
                ids += self._placeholder(kind)
                labels += [IGNORE] * (len(ids) - len(labels))
                continue
            encoding = self._tokenizer.encode(piece, add_special_tokens=False)
            for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
                ids.append(token)
                learned = any(a < start + end <= b for a, b in spans)
                labels.append(token if learned else IGNORE)
        return Encoded(tuple(ids), tuple(labels))

    def prompt(self, question: str, kinds: Sequence[MediumKind] = ()) -> tuple[int, ...]:
        """Ids of one question that the model is to answer; media tags are put in front of it."""
        tags = "".join(tag for kind in kinds for tag, k in TAGS.items() if k is kind)
        asked = f"{tags}\n{question}" if tags else question
        template = self.template
        text = f"{template.system} {template.user}: {asked}{template.end_of_user}{template.assistant}:"
        ids = [self._bos]
        for piece, _, kind in self._pieces(text, limit=len(kinds)):
            if kind is not None:
                ids += self._placeholder(kind)
            else:
                ids += self._plain(piece)
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def _plain(self, text: str) -> list[int]:
        """Ids of a part of a question; a media tag or closing token that someone typed stays text.

        Training refuses these (``check_turns``), so no model has learned what they would mean here.
        """
        typed = self.template.end_of_answer in text or _TAG.search(text) is not None
        self._tokenizer.encode_special_tokens = typed
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        finally:
            self._tokenizer.encode_special_tokens = False

    def _placeholder(self, kind: MediumKind) -> list[int]:
        visual = self.visual[kind]
        return [visual.token_id] * visual.count

    def _spell(self, turns: Sequence[Turn]) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and the character spans that are learned."""
        template, spans = self.template, []
        text = template.system + " "
        for turn in turns:
            if turn.role == "human":
                text += f"{template.user}: {turn.text}{template.end_of_user}"
                continue
            text += f"{template.assistant}:"
            if not turn.text:  # as the reference spells it: no space, no closing token, nothing learned
                continue
            start = len(text)
            text += f" {turn.text}{template.end_of_answer}"
            spans.append((start, len(text)))
        return text, spans

    @staticmethod
    def _pieces(text: str, limit: int | None = None):
        """(text, its start, None) and ("", position, kind of medium) in order; empty texts left out."""
        done = 0
        for tag in islice(_TAG.finditer(text), limit):
            if tag.start() > done:
                yield text[done : tag.start()], done, None
            yield "", tag.start(), TAGS[tag.group()]
            done = tag.end()
        if done < len(text):
            yield text[done:], done, None
