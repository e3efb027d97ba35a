"""The trained model in the Hugging Face layout, with the card that says how it wants to be shown things."""

from __future__ import annotations

import tempfile
from pathlib import Path

from raypipe.errors import DamageError, RequestError
from raypipe.model.build import DTYPES, Card, LoadedModel, save_model
from raypipe.settings import Rendition, Sampling, StageSettings
from raypipe.store.files import Store
from raypipe.train.checkpoints import records
from raypipe.train.mixture import Mixture
from raypipe.train.plan import StagePlan
from raypipe.train.start import build_model
from raypipe.train.state import load_trained


def export_run(plan: StagePlan, settings: StageSettings, step: int | None = None) -> int:
    """Writes ``model/`` of the run from its start model and a checkpoint, on the CPU; returns its step.

    Args:
        step: of the checkpoint; None: the newest.

    Raises:
        RequestError: there is no such checkpoint.
    """
    store = Store(settings.out)
    committed = {record["step"]: record for record in records(store)}
    chosen = max(committed, default=-1) if step is None else step
    if chosen not in committed:
        which = "" if step is None else f" of step {step}"
        there = ", ".join(str(s) for s in committed) or "none"
        raise RequestError(f"{store.root} has no checkpoint{which}", f"there are: {there}")
    loaded = build_model(settings, Mixture(plan.data))
    loaded.model.to(DTYPES[settings.precision])
    try:
        load_trained(loaded.model, store, committed[chosen])
    except FileNotFoundError as fault:
        raise DamageError(f"the checkpoint at step {chosen} is not whole: {fault}") from fault
    export(loaded, settings, plan)
    return chosen


def card_of(loaded: LoadedModel, settings: StageSettings, plan: StagePlan) -> Card:
    """How a stage's model wants to be shown things."""
    return Card(
        template=settings.template if settings.template != "auto" else loaded.family.template,
        image_aspect=settings.image_aspect,
        pixels=settings.pixels,
        sampling=Sampling(**plan.facts["sampling"]),
        rendition=Rendition(**plan.facts["rendition"]),
        parents=tuple(plan.parents),
    )


def export(loaded: LoadedModel, settings: StageSettings, plan: StagePlan) -> None:
    """Writes ``model/`` of the run."""
    with tempfile.TemporaryDirectory(prefix="raypipe-export-") as folder:
        save_model(loaded, card_of(loaded, settings, plan), Path(folder))
        store = Store(settings.out)
        for file in sorted(p for p in Path(folder).iterdir() if p.is_file()):
            store.replace_from(f"model/{file.name}", file)
