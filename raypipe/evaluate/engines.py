"""What is evaluated: which weights by which name, and the engine that answers with them."""

from __future__ import annotations

from dataclasses import dataclass

from raypipe.evaluate.engine import Engine
from raypipe.model.cards import Card
from raypipe.model.describe import describe_model
from raypipe.settings import EvaluateSettings


@dataclass(frozen=True)
class Subject:
    """A model by its content, and how it wants to be shown media."""

    weights: str
    card: Card


def subject_of(settings: EvaluateSettings) -> Subject:
    """The model that the settings name.

    Raises:
        RequestError: there is no such model.
    """
    card, weights = describe_model(settings.model, settings.model_base)
    return Subject(weights, card)


def open_engine(settings: EvaluateSettings) -> Engine:
    """The engine that answers for it; loads the weights.

    Raises:
        RequestError: the model cannot be loaded.
    """
    import torch

    from raypipe.evaluate.local import load_engine

    torch.set_num_threads(max(1, int(settings.actor_cpus)))
    return load_engine(settings.model, settings.model_base, settings.precision, settings.batch)
