"""The model a stage begins with, the same on a worker, for validation and for the export."""

from __future__ import annotations

import torch

from raypipe.model.build import LoadedModel, load_model, random_model
from raypipe.settings import StageSettings
from raypipe.text.chat import TEMPLATES
from raypipe.text.tokenizer import train_tokenizer
from raypipe.train.mixture import Mixture


def build_model(settings: StageSettings, mixture: Mixture) -> LoadedModel:
    """The stage's model: from a folder, from parts, or random; with adapters when the stage has LoRA."""
    start = settings.start
    if start.random is not None:
        texts = [t.system for t in TEMPLATES.values()] + ["USER: ASSISTANT:"] * 8
        texts += [t for number in range(min(len(mixture), 20000)) for t in mixture.texts(number)]
        loaded = random_model(start.random, train_tokenizer([f" {t}" for t in texts]), start.seed)
    else:
        loaded = load_model(str(start.model), precision=settings.precision)
    loaded.model.train()
    if settings.lora:
        from raypipe.model.lora import add_lora

        torch.manual_seed(settings.seed)
        loaded = add_lora(loaded, settings.lora, list(settings.rates), str(loaded.folder))
    return loaded
