"""One unit of an evaluation: media + questions -> committed predictions."""

from __future__ import annotations

from typing import Any

from raypipe.evaluate.engine import Asked, LocalEngine, Reply
from raypipe.evaluate.plan import Group, Unit, kind_of
from raypipe.evaluate.read import thumbnails, unpack_media
from raypipe.model.build import load_model
from raypipe.records import (
    PREDICTION_SCHEMA,
    THUMBS_SCHEMA,
    Medium,
    Outcome,
    Prediction,
    Question,
    Rejection,
    fingerprint,
)
from raypipe.settings import EvaluateSettings
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from raypipe.store.shards import encode

PREDICTIONS, THUMBS = "predictions", "thumbs"


class Answerer:
    """Holds the model and answers units; a Ray Data actor, or a plain object in a test."""

    def __init__(self, settings: EvaluateSettings) -> None:
        import torch

        torch.set_num_threads(max(1, int(settings.actor_cpus)))
        loaded = load_model(settings.model, settings.model_base, settings.precision)
        self._engine = LocalEngine(loaded, settings.precision, settings.batch)
        self._store = Store(settings.out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        unit, media = Unit.unpack(row["unit"]), unpack_media(row)
        predictions = self.answer(unit, media)
        self._commit(unit, media, predictions)
        return {"unit": unit.id, "count": len(predictions)}

    def answer(self, unit: Unit, media: dict[str, Medium | Rejection]) -> list[Prediction]:
        """Predictions for every question of a unit; each has exactly one named outcome."""
        done: list[Prediction] = []
        asked: list[tuple[Question, Asked]] = []
        for group in unit.groups:
            try:
                asked += self._prepare(unit, group, media)
            except _CannotShow as fault:
                done += [_prediction(unit, q, "", fault.outcome, str(fault), 0) for q in group.questions]
        asking = unit.asking
        try:
            replies = self._engine.answer([a for _, a in asked], asking.template, asking.max_new_tokens)
        except RuntimeError as fault:  # the device refused; the questions are counted as failed, not as wrong
            done += [_prediction(unit, q, "", Outcome.FAILED, str(fault)[:300], 0) for q, _ in asked]
            return done
        return done + [_answered(unit, q, r) for (q, _), r in zip(asked, replies, strict=True)]

    def _prepare(
        self, unit: Unit, group: Group, media: dict[str, Medium | Rejection]
    ) -> list[tuple[Question, Asked]]:
        tokens = None
        kind = kind_of(group)
        if group.medium is not None and kind is not None:
            medium = media[group.medium.path]
            if isinstance(medium, Rejection):
                raise _CannotShow(Outcome.MEDIUM_BAD, f"{medium.reason}: {medium.detail}")
            try:
                tokens = self._engine.look(medium.frames, kind, unit.asking.aspect)
            except (ValueError, RuntimeError) as fault:
                raise _CannotShow(Outcome.FAILED, str(fault)[:300]) from fault
        return [(q, Asked(q.prompt, kind, tokens)) for q in group.questions]

    def _commit(
        self, unit: Unit, media: dict[str, Medium | Rejection], predictions: list[Prediction]
    ) -> None:
        import pyarrow as pa

        rows = [
            {"medium": path, "frames": list(thumbnails(m)), "pts_s": list(m.pts_s)}
            for path, m in media.items()
            if isinstance(m, Medium)
        ]
        table = pa.Table.from_pylist(rows, schema=THUMBS_SCHEMA)
        self._store.put_new(f"{THUMBS}/{unit.id}.arrow", encode(table))
        # The predictions come last: they are what makes the unit count.
        Ledger(self._store, PREDICTIONS, PREDICTION_SCHEMA).append(unit.id, predictions)


class _CannotShow(Exception):
    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


def _answered(unit: Unit, question: Question, reply: Reply) -> Prediction:
    outcome = Outcome.OK if reply.text else Outcome.EMPTY
    return _prediction(unit, question, reply.text, outcome, "", reply.new_tokens)


def _prediction(
    unit: Unit, question: Question, text: str, outcome: Outcome, detail: str, new_tokens: int
) -> Prediction:
    return Prediction(
        key=fingerprint(question.id, unit.asking.name()),
        benchmark=unit.benchmark,
        question_id=question.id,
        row_id=question.row_id,
        medium=question.medium.path if question.medium else "",
        category=question.category,
        prompt=question.prompt,
        question=question.question,
        reference=question.reference,
        text=text,
        outcome=outcome,
        detail=detail,
        new_tokens=new_tokens,
        tags=question.tags,
    )
