"""The model a stage begins with, the same on a worker, for validation and for the export."""

from __future__ import annotations

from dataclasses import replace

import torch

from raypipe.errors import RequestError
from raypipe.model.build import LoadedModel, from_parts, load_model, random_model, with_projector
from raypipe.model.families import family_named
from raypipe.settings import StageSettings
from raypipe.train.learns import saved_parts
from raypipe.train.mixture import Mixture
from raypipe.train.start_outline import random_tokenizer


def build_model(settings: StageSettings, mixture: Mixture) -> LoadedModel:
    """The stage's model: from a folder, from parts, or random; with adapters when the stage has LoRA.

    An adapter that is started from is merged into its base first.

    Raises:
        RequestError: what is started from cannot be loaded, or cannot have adapters.
    """
    start = settings.start
    loaded = _started(settings, mixture)
    if start.projector is not None:
        with_projector(loaded, start.projector)
    loaded.model.train()
    if settings.lora:
        from raypipe.model.lora import add_lora

        torch.manual_seed(settings.seed)
        loaded = add_lora(loaded, settings.lora, saved_parts(settings), _base(settings))
    return loaded


def _started(settings: StageSettings, mixture: Mixture) -> LoadedModel:
    start = settings.start
    if start.random is not None:
        tokenizer = random_tokenizer(family_named(start.family).template, mixture)
        return random_model(start.random, tokenizer, start.seed, start.family)
    if start.parts is not None:
        return from_parts(start.parts, start.seed, settings.precision)
    loaded = load_model(str(start.model), start.model_base, settings.precision)
    if hasattr(loaded.model, "merge_and_unload"):
        if settings.lora:
            raise RequestError(
                f"{start.model} is a LoRA adapter; another over it would have no base",
                "merge it first: raypipe merge --adapter ... --model-base ... --out ...",
            )
        loaded = replace(loaded, model=loaded.model.merge_and_unload())
        loaded.model.requires_grad_(True)
    return loaded


def _base(settings: StageSettings) -> str:
    """What an adapter is to be laid over when it is loaded."""
    start = settings.start
    if start.parts is not None:
        return start.parts.language_model
    return str(start.model_base or start.model)
