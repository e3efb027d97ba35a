"""A sample -> what the model is shown of it: token ids, labels, uint8 frames."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from raypipe.errors import RequestError
from raypipe.model.build import LoadedModel
from raypipe.records import MediumKind
from raypipe.settings import StageSettings
from raypipe.text.chat import Encoded
from raypipe.train.fitting import NOTHING, Fitting
from raypipe.train.mixture import Mixture

MOST_THREADS = 16
TOGETHER = 2  # samples that a thread decodes before it says so

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Example:
    """One sample ready for collation.

    Attributes:
        encoded: ids and labels, at most ``max_tokens`` long.
        pixels: frames [N, side, side, 3] of each medium as the look makes them, in the placeholders' order.
        cut: its text was shortened to fit.
        fault: why it carries no labels although it is in the data ("" where it does): it does not fit.
    """

    number: int
    id: str
    encoded: Encoded
    pixels: tuple[tuple[MediumKind, np.ndarray], ...]
    cut: bool = False
    fault: str = ""


class _Draft(NamedTuple):
    """An example without its pictures: the stored frames of each medium, and whether clips are mirrored."""

    number: int
    id: str
    encoded: Encoded
    cut: bool
    fault: str
    media: Sequence[tuple[MediumKind, Sequence[memoryview]]] = ()
    mirrored: bool = False

    def frames(self, kind: MediumKind) -> int:
        return sum(len(stored) for k, stored in self.media if k is kind)


STAND_IN = Example(-1, "", NOTHING, (), fault="stand-in")


class Examples:
    """Samples -> Examples for one model.

    Args:
        threads: that decode; None: by the cores that a worker has.
    """

    def __init__(
        self, mixture: Mixture, loaded: LoadedModel, settings: StageSettings, threads: int | None = None
    ) -> None:
        self.mixture, self._settings = mixture, settings
        self.packing, self.max_tokens = settings.packing, settings.max_tokens
        self.reading: Callable[[str], None] = lambda sample: None  # told what is taken up
        self.chat = loaded.chat(settings.template, settings.protocol)
        self.look = loaded.look(settings.image_aspect, settings.pixels)
        self._frames = loaded.family.frames(loaded.config)
        self._fitting = Fitting(self.chat, settings)
        self._tokens = np.zeros(len(mixture), np.int32)  # 0: not counted yet
        cores = int(settings.workers.cpus)
        # One more than cores: a core is not idle while a thread waits for the interpreter.
        threads = threads or (min(MOST_THREADS, cores + 1) if cores > 1 else 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode") if threads > 1 else None

    def __getitem__(self, number: int) -> Example:
        """As it is evaluated: never flipped."""
        return self.example(number)

    def many(self, numbers: Sequence[int], epoch: int | None = None) -> list[Example]:
        """Several examples, decoded side by side; all frames of a kind lie behind each other in memory."""
        return self.begin(numbers, epoch)()

    def begin(self, numbers: Sequence[int], epoch: int | None = None) -> Callable[[], list[Example]]:
        """The same in two parts: texts at once, pictures while something else is done; the call waits."""
        drafts = [self._draft(number, epoch) for number in numbers]
        counts = {kind: sum(d.frames(kind) for d in drafts) for kind in MediumKind}
        room = {kind: self.look.blank(count) for kind, count in counts.items() if count}
        taken = dict.fromkeys(room, 0)
        both: list[tuple[_Draft, list[np.ndarray]]] = []
        for draft in drafts:
            both.append((draft, []))
            for kind, stored in draft.media:
                both[-1][1].append(room[kind][taken[kind] : taken[kind] + len(stored)])
                taken[kind] += len(stored)
        if self._pool is None:
            return lambda: self._drawn(both)
        parts = [both[n : n + TOGETHER] for n in range(0, len(both), TOGETHER)]
        drawn = [self._pool.submit(self._drawn, part) for part in parts]
        return lambda: [example for part in ended(drawn) for example in part]

    def tokens(self, numbers: Sequence[int]) -> list[int]:
        """How many positions each sample takes; no medium is looked at, and nothing is counted twice."""
        missing = [n for n in dict.fromkeys(numbers) if not self._tokens[n]]
        for number, count in zip(missing, self._map(self._count, missing), strict=True):
            self._tokens[number] = count
        return [int(self._tokens[n]) for n in numbers]

    def example(self, number: int, epoch: int | None = None) -> Example:
        """One example, as it is trained on in an epoch; None: as it is evaluated.

        Raises:
            RequestError: its video has another number of frames than the model takes.
            DamageError: a medium cannot be read.
        """
        draft = self._draft(number, epoch)
        return self._drawn([(draft, [self.look.blank(len(stored)) for _, stored in draft.media])])[0]

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _draft(self, number: int, epoch: int | None) -> _Draft:
        """All of an example but its pictures."""
        sample = self.mixture.sample(number)
        self.reading(sample.id)
        encoded, cut, fault = self._fitting.fitted(sample)
        if fault:
            return _Draft(number, sample.id, encoded, cut, fault)
        media = []
        for kind, stored in zip(sample.kinds, self.mixture.views(number, sample.media), strict=True):
            if kind is MediumKind.VIDEO and len(stored) != self._frames:
                raise RequestError(
                    f"sample {sample.id}: {len(stored)} frames for a model that takes {self._frames}",
                    f"prepare with sampling.policy=uniform sampling.frames={self._frames}",
                )
            media.append((kind, stored))
        mirrored = epoch is not None and self._mirrored(sample.id, epoch)
        return _Draft(number, sample.id, encoded, cut, fault, media, mirrored)

    def _drawn(self, drafts: Sequence[tuple[_Draft, Sequence[np.ndarray]]]) -> list[Example]:
        """The examples with their pictures, put where there is room for them."""
        return [self._example(draft, rooms) for draft, rooms in drafts]

    def _example(self, draft: _Draft, rooms: Sequence[np.ndarray]) -> Example:
        pixels = []
        for (kind, stored), room in zip(draft.media, rooms, strict=True):
            self.reading(draft.id)
            self.look.frames(stored, kind, room)
            if draft.mirrored and kind is MediumKind.VIDEO:
                room[:] = room[:, :, ::-1].copy()
            pixels.append((kind, room))
        return Example(draft.number, draft.id, draft.encoded, tuple(pixels), draft.cut, draft.fault)

    def _count(self, number: int) -> int:
        return len(self._fitting.fitted(self.mixture.sample(number))[0])

    def _mirrored(self, id: str, epoch: int) -> bool:
        chance = self._settings.flip
        if not chance:
            return False
        name = f"{self._settings.seed}/{epoch}/{id}".encode(errors="surrogatepass")
        drawn = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
        return drawn < chance * 2**64

    def _map(self, act: Callable[[T], U], items: Sequence[T]) -> Iterable[U]:
        return self._pool.map(act, items) if self._pool and len(items) > 1 else map(act, items)


def ended(tasks: Sequence[Future[T]]) -> list[T]:
    """What tasks gave, in their order."""
    if tasks:
        tasks[-1].exception()  # by then the others are done, too, mostly: who waits is woken once
    return [task.result() for task in tasks]
