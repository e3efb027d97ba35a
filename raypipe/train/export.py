"""The trained model in the Hugging Face layout, with the card that says how it wants to be shown things."""

from __future__ import annotations

import tempfile
from pathlib import Path

from raypipe.model.build import Card, LoadedModel, save_model
from raypipe.settings import Rendition, Sampling, StageSettings
from raypipe.store.files import Store
from raypipe.train.plan import StagePlan


def export(loaded: LoadedModel, settings: StageSettings, plan: StagePlan) -> None:
    """Writes ``model/`` of the run."""
    card = Card(
        template=settings.template if settings.template != "auto" else loaded.family.template,
        image_aspect=settings.image_aspect,
        pixels=settings.pixels,
        sampling=Sampling(**plan.facts["sampling"]),
        rendition=Rendition(**plan.facts["rendition"]),
        parents=tuple(plan.parents),
    )
    if settings.gradient_checkpointing:
        loaded.model.gradient_checkpointing_disable()
    with tempfile.TemporaryDirectory(prefix="raypipe-export-") as folder:
        save_model(loaded, card, Path(folder))
        store = Store(settings.out)
        for file in sorted(p for p in Path(folder).iterdir() if p.is_file()):
            store.replace_from(f"model/{file.name}", file)
