"""The certificate of an evaluation: a sample of its questions, asked again one at a time.

Batches, shared prefixes and padding change no answer but by rounding. How often rounding did is measured, not
assumed: each question of the sample is asked with its full prompt, alone, through transformers' ``generate``,
and every answer that differs is listed, with how close the two best tokens were where the answers part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from raypipe.evaluate.engine import Reply, Shown, Way


@dataclass(frozen=True)
class Alone:
    """An answer made alone: its reply, and for each token how far the best logit was above the second."""

    reply: Reply
    gaps: tuple[float, ...]


@runtime_checkable
class CanAskAlone(Protocol):
    def alone(self, shown: Shown, prompt: str, way: Way) -> Alone: ...


@dataclass(frozen=True)
class Difference:
    """One question that was answered in two ways.

    Attributes:
        token: the place of the first token that differs, from 0 on; -1 where the tokens are not known.
        gap: between the two best logits there, of the answer made alone; None where it is not known.
    """

    question_id: str
    batched: str
    alone: str
    token: int
    gap: float | None


@dataclass(frozen=True)
class Certificate:
    """What asking again found. ``asked`` counts the answers compared; ``failed`` says why others were not."""

    asked: int = 0
    differences: tuple[Difference, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()  # question id, reason

    @property
    def equal(self) -> int:
        return self.asked - len(self.differences)

    def row(self) -> dict[str, Any]:
        """As plain JSON, with counts."""
        return {
            "asked": self.asked,
            "equal": self.equal,
            "differences": [asdict(d) for d in self.differences],
            "failed": [list(f) for f in self.failed],
        }

    @classmethod
    def of(cls, row: dict[str, Any]) -> Certificate:
        """What ``row`` made."""
        differences = tuple(Difference(**d) for d in row["differences"])
        return cls(row["asked"], differences, tuple((i, said) for i, said in row["failed"]))

    @classmethod
    def together(cls, parts: Iterable[Certificate]) -> Certificate:
        """One of many, in an order that does not depend on theirs."""
        listed = list(parts)
        return cls(
            sum(p.asked for p in listed),
            tuple(sorted((d for p in listed for d in p.differences), key=lambda d: d.question_id)),
            tuple(sorted(f for p in listed for f in p.failed)),
        )


def certify(
    engine: CanAskAlone,
    shown: Shown,
    way: Way,
    question_ids: Sequence[str],
    replies: Sequence[Reply],
    chosen: frozenset[str],
) -> Certificate:
    """Asks the chosen questions on one medium again and compares.

    A question without an answer has none to compare and is left out.

    Args:
        question_ids, replies: one for each prompt of ``shown``.
        chosen: the sample, which is of the whole evaluation.
    """
    asked, differences, failed = 0, [], []
    for name, prompt, reply in zip(question_ids, shown.prompts, replies, strict=True):
        if name not in chosen or reply.failed:
            continue
        again = engine.alone(shown, prompt, way)
        if again.reply.failed:
            failed.append((name, again.reply.failed))
            continue
        asked += 1
        found = _difference(name, reply, again)
        if found:
            differences.append(found)
    return Certificate(asked, tuple(differences), tuple(failed))


def _difference(name: str, batched: Reply, again: Alone) -> Difference | None:
    alone = again.reply
    if not (batched.tokens or alone.tokens) or batched.new_tokens != len(batched.tokens):
        same = batched.text == alone.text
        return None if same else Difference(name, batched.text, alone.text, -1, None)
    if batched.tokens == alone.tokens:
        return None
    pairs = zip(batched.tokens, alone.tokens, strict=False)
    shorter = min(len(batched.tokens), len(alone.tokens))
    place = next((n for n, (a, b) in enumerate(pairs) if a != b), shorter)
    gap = again.gaps[place] if place < len(again.gaps) else None
    return Difference(name, batched.text, alone.text, place, gap)
