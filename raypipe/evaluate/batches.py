"""Which questions are answered together, and which media are made ready together: a plan without a model.

The plan depends on nothing but the prompts, the size of a batch and where batches were cut before. So a run
that was killed and goes on makes the same batches, and with them, to the last bit, the same answers.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from raypipe.evaluate.engine import Split

Ids = tuple[int, ...]
Span = tuple[int, int]
TOGETHER = 4096  # tokens of prompts whose media are made ready at once: enough to keep a GPU busy


@dataclass(frozen=True)
class Medium:
    """One medium: its place in the call, the ids its questions share, the length of its longest prompt."""

    place: int
    shared: Ids
    longest: int


@dataclass(frozen=True)
class Asked:
    """One question: its place among those of its medium, the medium's in the plan, the ids left to ask."""

    place: int
    medium: int
    ids: Ids


@dataclass(frozen=True)
class Plan:
    """Media in the order they are gone through, shorter prefixes first, and their questions in theirs."""

    media: tuple[Medium, ...]
    asked: tuple[Asked, ...]

    def batches(self, split: Split) -> list[Span]:
        """Spans of questions that are answered together."""
        count = len(self.asked)
        edges = {*range(0, count, split.batch), count, *(c for c in split.questions if 0 < c < count)}
        return list(pairwise(sorted(edges)))

    def groups(self, split: Split) -> list[Span]:
        """Spans of media whose features and prefixes are made together."""
        edges, longest = [0], 0
        for number, medium in enumerate(self.media):
            longest = max(longest, medium.longest)
            if number > edges[-1] and (number + 1 - edges[-1]) * longest > TOGETHER:
                edges.append(number)
                longest = medium.longest
        count = len(self.media)
        return list(pairwise(sorted({*edges, count, *(c for c in split.media if 0 < c < count)})))

    def media_of(self, span: Span) -> range:
        """The media that some questions are about; questions go medium by medium."""
        return range(self.asked[span[0]].medium, self.asked[span[1] - 1].medium + 1)


def planned(prompts: Sequence[Sequence[Ids | None]]) -> Plan:
    """The plan for all questions of a call.

    Args:
        prompts: of each medium the ids of its prompts; None where a question cannot be asked.
    """
    media, rests = [], []
    for place, ids in enumerate(prompts):
        good = [i for i in ids if i is not None]
        if good:
            shared = good[0][: shared_length(good)]
            media.append(Medium(place, shared, max(map(len, good))))
            rest = [(n, i[len(shared) :]) for n, i in enumerate(ids) if i is not None]
            rests.append(sorted(rest, key=lambda r: (len(r[1]), r[0])))
    order = sorted(range(len(media)), key=lambda n: (len(media[n].shared), n))
    asked = [Asked(n, new, rest) for new, old in enumerate(order) for n, rest in rests[old]]
    return Plan(tuple(media[n] for n in order), tuple(asked))


def shared_length(ids: Iterable[Ids]) -> int:
    """How many first ids all prompts have in common; at least one id of each is left to ask with.

    By ids, not by text: a question that begins as another one does shares that part, too, and a template that
    puts the question before the medium leaves little to share.
    """
    listed = list(ids)
    first, last = min(listed), max(listed)
    most = min(map(len, listed)) - 1
    return next((n for n in range(most) if first[n] != last[n]), most)


class Cuts:
    """The split of one call; whoever wants to know is told at once of every cut."""

    def __init__(self, split: Split, batch: int, tell: Callable[[Split], None] | None) -> None:
        self.split = split if split.batch else replace(split, batch=batch)
        self._tell = tell

    def questions(self, place: int) -> None:
        self._told(replace(self.split, questions=_with(self.split.questions, place)))

    def media(self, place: int) -> None:
        self._told(replace(self.split, media=_with(self.split.media, place)))

    def _told(self, split: Split) -> None:
        self.split = split
        if self._tell:
            self._tell(split)


def _with(places: tuple[int, ...], place: int) -> tuple[int, ...]:
    kept = [p for p in places if p != place]
    insort(kept, place)
    return tuple(kept)
