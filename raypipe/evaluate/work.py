"""One unit of an evaluation: media + questions -> committed predictions."""

from __future__ import annotations

from typing import Any

from raypipe.evaluate.engine import Engine, Reply, Shown, Way
from raypipe.evaluate.plan import Group, Unit, kind_of
from raypipe.evaluate.read import thumbnails, unpack_media
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

        from raypipe.evaluate.local import load_engine

        torch.set_num_threads(max(1, int(settings.actor_cpus)))
        self._engine: Engine = load_engine(
            settings.model, settings.model_base, settings.precision, settings.batch
        )
        self._store = Store(settings.out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        unit, media = Unit.unpack(row["unit"]), unpack_media(row)
        predictions = self.answer(unit, media)
        self._commit(unit, media, predictions)
        return {"unit": unit.id, "count": len(predictions)}

    def answer(self, unit: Unit, media: dict[str, Medium | Rejection]) -> list[Prediction]:
        """Predictions for every question of a unit; each has exactly one named outcome."""
        done: list[Prediction] = []
        groups: list[Group] = []
        shown: list[Shown] = []
        for group in unit.groups:
            medium = media[group.medium.path] if group.medium else None
            if isinstance(medium, Rejection):
                said = f"{medium.reason}: {medium.detail}"
                done += [_prediction(unit, q, "", Outcome.MEDIUM_BAD, said, 0) for q in group.questions]
                continue
            frames = medium.frames if medium else ()
            groups.append(group)
            shown.append(Shown(kind_of(group), frames, tuple(q.prompt for q in group.questions)))
        asking = unit.asking
        way = Way(asking.template, asking.aspect, asking.max_new_tokens)
        for group, replies in zip(groups, self._engine.answer(shown, way), strict=True):
            done += [_answered(unit, q, r) for q, r in zip(group.questions, replies, strict=True)]
        return done

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


def _answered(unit: Unit, question: Question, reply: Reply) -> Prediction:
    outcome = Outcome.FAILED if reply.failed else Outcome.OK if reply.text else Outcome.EMPTY
    return _prediction(unit, question, reply.text, outcome, reply.failed, reply.new_tokens)


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
