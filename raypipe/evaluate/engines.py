"""What is evaluated: which weights by which name, and the engine that answers with them.

Imports no model before it is asked for: workers that read media need none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raypipe.evaluate.engine import Engine
from raypipe.settings import EvaluateSettings

if TYPE_CHECKING:
    from raypipe.evaluate.served import ServedCard
    from raypipe.model.cards import Card
    from raypipe.model.pixels import Look


@dataclass(frozen=True)
class Subject:
    """A model by its content, and how it wants to be shown media."""

    weights: str
    card: Card | ServedCard


def subject_of(settings: EvaluateSettings) -> Subject:
    """The model that the settings name.

    Raises:
        RequestError: there is no such model.
        ServiceError: the endpoint of a served model refuses, or does not answer.
    """
    if settings.served is not None:
        from raypipe.evaluate.served import ServedCard, served_weights, snapshot_of

        named = served_weights(settings.model, snapshot_of(settings), settings.served)
        return Subject(named, ServedCard())
    from raypipe.model.describe import describe_model

    card, weights = describe_model(settings.model, settings.model_base)
    return Subject(weights, card)


def glance_at(settings: EvaluateSettings) -> Subject:
    """The same without a name of its weights, which takes reading all of them.

    Raises:
        RequestError: there is no such model.
    """
    if settings.served is not None:
        from raypipe.evaluate.served import ServedCard

        return Subject("", ServedCard())
    from raypipe.model.describe import model_card

    return Subject("", model_card(settings.model, settings.model_base))


def look_of(settings: EvaluateSettings) -> Look | None:
    """How the model takes pictures; None: its engine takes them as they are stored.

    Raises:
        RequestError: there is no such model.
    """
    if settings.served is not None:
        return None
    from raypipe.model.describe import model_look

    return model_look(settings.model, settings.model_base)


def open_engine(settings: EvaluateSettings, weights: str = "") -> Engine:
    """The engine that answers for it; loads the weights.

    Args:
        weights: the subject's; a served model under another name is refused when it answers.

    Raises:
        RequestError: the model cannot be loaded, or an endpoint's key is missing.
    """
    if settings.served is not None:
        from raypipe.evaluate.served import ServedEngine

        return ServedEngine(settings, weights)
    import torch

    from raypipe.evaluate.local import load_engine

    torch.set_num_threads(max(1, int(settings.actor_cpus)))
    return load_engine(settings.model, settings.model_base, settings.precision, settings.batch)


def units_at_once(settings: EvaluateSettings) -> int:
    """How many units an engine answers together."""
    if settings.served is None:
        return 1
    from raypipe.evaluate.served import UNITS_AT_ONCE

    return UNITS_AT_ONCE
