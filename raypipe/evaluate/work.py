"""One unit of an evaluation: media + questions -> committed predictions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from raypipe.evaluate.attempts import Attempt
from raypipe.evaluate.certificate import CanAskAlone, Certificate, certify
from raypipe.evaluate.engine import UNCUT, Engine, Reply, Shown, Split, Way
from raypipe.evaluate.engines import open_engine
from raypipe.evaluate.gauges import Busy
from raypipe.evaluate.plan import Group, Unit, kind_of
from raypipe.evaluate.read import Reader
from raypipe.gauges import run_of
from raypipe.model.pixels import Look
from raypipe.records import (
    PREDICTION_SCHEMA,
    Medium,
    Outcome,
    Prediction,
    Question,
    Rejection,
    fingerprint,
    predictions_of,
)
from raypipe.settings import EvaluateSettings
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger

PREDICTIONS, SPLITS, CERTIFICATES = "predictions", "splits", "certificate"

Media = Mapping[str, Medium | Rejection]


@dataclass(frozen=True)
class Work:
    """What carries out the units of a plan, wherever it runs."""

    settings: EvaluateSettings
    root: str  # of the media
    certified: frozenset[str] = frozenset()
    weights: str = ""  # the name of what answers
    look: Look | None = None  # how it takes pictures

    @property
    def store(self) -> Store:
        return Store(self.settings.out)

    @property
    def name(self) -> str:
        """The run's, on the dashboard: the last part of its folder."""
        return run_of(self.settings.out)

    def reader(self) -> Reader:
        prepared = tuple(self.settings.prepared)
        return Reader(self.store, self.root, self.settings.limits, prepared, self.look)

    def answerer(self) -> Answerer:
        """Loads the model."""
        return Answerer(open_engine(self.settings, self.weights), self.store, self.certified)


@dataclass(frozen=True)
class Done:
    """A unit that is committed, and what was answered."""

    unit: str
    predictions: tuple[Prediction, ...]


def in_process(units: Sequence[Unit], work: Work) -> Iterator[Done]:
    """Carries out units one after another in this process (tests, and small runs without Ray)."""
    reader, answerer = work.reader(), work.answerer()
    for unit in units:
        yield Done(unit.id, tuple(answerer(unit, reader(unit))))


class Answerer:
    """Answers units with one engine and commits them. Threads may share it; some engines answer several."""

    def __init__(self, engine: Engine, store: Store, certified: frozenset[str] = frozenset()) -> None:
        self._engine, self._store, self._certified = engine, store, certified
        self._turn = threading.Semaphore(getattr(engine, "at_once", 1))
        self._busy = Busy(run_of(store.root))

    def __call__(self, unit: Unit, media: Media, attempt: Attempt | None = None) -> list[Prediction]:
        """The committed predictions of a unit; every question has exactly one outcome."""
        cuts = self._cuts(unit)
        with self._turn, self._busy.unit():
            if attempt is not None and attempt.alone:
                predictions, again = self._one_by_one(unit, media, attempt)
            else:
                predictions, again = self._answer(unit, media, cuts)
        return self._commit(unit, predictions, again)

    def _answer(
        self, unit: Unit, media: Media, cuts: Sequence[Split] = ()
    ) -> tuple[list[Prediction], list[Certificate]]:
        """Answers all questions of a unit together, in the batches that an earlier try had to cut."""
        done: list[Prediction] = []
        groups: list[Group] = []
        for group in unit.groups:
            bad = _bad(group, media)
            if bad is None:
                groups.append(group)
            else:
                done += _unasked(unit, group, Outcome.MEDIUM_BAD, f"{bad.reason}: {bad.detail}")
        shown = [_shown(group, media) for group in groups]
        replies = self._ask(unit, shown, cuts)
        for group, mine in zip(groups, replies, strict=True):
            done += [_answered(unit, q, r) for q, r in zip(group.questions, mine, strict=True)]
        return done, self._certify(unit, groups, shown, replies)

    def _ask(self, unit: Unit, shown: Sequence[Shown], cuts: Sequence[Split]) -> list[list[Reply]]:
        count = len(cuts)

        def cut(so_far: Split) -> None:
            nonlocal count
            body = json.dumps(so_far.row(), sort_keys=True).encode()
            self._store.put_new(f"{SPLITS}/{unit.id}/{count:04d}.json", body)
            count += 1

        return self._engine.answer(shown, way_of(unit), split=cuts[-1] if cuts else UNCUT, on_split=cut)

    def _certify(
        self, unit: Unit, groups: Sequence[Group], shown: Sequence[Shown], replies: Sequence[list[Reply]]
    ) -> list[Certificate]:
        """Asks the certificate's questions of a unit once more, alone."""
        engine = self._engine
        if not isinstance(engine, CanAskAlone):
            return []
        ids = [[q.id for q in group.questions] for group in groups]
        return [
            certify(engine, one, way_of(unit), names, mine, self._certified)
            for one, names, mine in zip(shown, ids, replies, strict=True)
            if not self._certified.isdisjoint(names)
        ]

    def _cuts(self, unit: Unit) -> list[Split]:
        """What earlier tries at a unit had to cut, each with all that was cut before it."""
        names = self._store.list(f"{SPLITS}/{unit.id}", ".json")
        return [Split.of(json.loads(self._store.read(name))) for name in names]

    def _one_by_one(
        self, unit: Unit, media: Media, attempt: Attempt
    ) -> tuple[list[Prediction], list[Certificate]]:
        """Answers medium by medium, without those that have ended a worker."""
        done: list[Prediction] = []
        again: list[Certificate] = []
        for place, group in enumerate(unit.groups):
            if place in attempt.harmful:
                said = "the worker that was asked about it was ended by it, or by too little memory beside it"
                done += _unasked(unit, group, Outcome.FAILED, said)
            else:
                attempt.begins(place)
                predictions, certificates = self._answer(_part(unit, group), media)
                done += predictions
                again += certificates
        attempt.begins(len(unit.groups))
        return done, again

    def _commit(
        self, unit: Unit, predictions: list[Prediction], again: Sequence[Certificate]
    ) -> list[Prediction]:
        """Puts a unit's predictions; where another worker was first, its predictions are what counts."""
        if again:
            body = json.dumps(Certificate.together(again).row(), sort_keys=True, ensure_ascii=False).encode()
            self._store.put_new(f"{CERTIFICATES}/{unit.id}.json", body)
        order = {q.id: n for n, q in enumerate(q for g in unit.groups for q in g.questions)}
        predictions.sort(key=lambda p: order[p.question_id])
        ledger = Ledger(self._store, PREDICTIONS, PREDICTION_SCHEMA)
        if not ledger.append(unit.id, predictions):
            return predictions_of(ledger.segment(unit.id))
        return predictions


def way_of(unit: Unit) -> Way:
    """How the questions of a unit are asked."""
    return Way(unit.asking.template, unit.asking.aspect, unit.asking.max_new_tokens)


def _part(unit: Unit, group: Group) -> Unit:
    """One medium of a unit as a unit of its own."""
    name = fingerprint(unit.id, group.medium.path if group.medium else "")
    return Unit(name, unit.benchmark, unit.asking, (group,))


def _bad(group: Group, media: Media) -> Rejection | None:
    """Why the medium of a group cannot be shown."""
    medium = media[group.medium.path] if group.medium else None
    return medium if isinstance(medium, Rejection) else None


def _shown(group: Group, media: Media) -> Shown:
    medium = media[group.medium.path] if group.medium else None
    frames = medium.frames if isinstance(medium, Medium) else ()
    return Shown(kind_of(group), frames, tuple(q.prompt for q in group.questions))


def _unasked(unit: Unit, group: Group, outcome: Outcome, why: str) -> list[Prediction]:
    return [_prediction(unit, question, Reply("", 0, why), outcome) for question in group.questions]


def _answered(unit: Unit, question: Question, reply: Reply) -> Prediction:
    outcome = Outcome.FAILED if reply.failed else Outcome.OK if reply.text else Outcome.EMPTY
    return _prediction(unit, question, reply, outcome)


def _prediction(unit: Unit, question: Question, reply: Reply, outcome: Outcome) -> Prediction:
    key = fingerprint(question.id, unit.asking.name())
    return Prediction.about(
        question, key, reply.text, outcome, detail=reply.failed, new_tokens=reply.new_tokens
    )
