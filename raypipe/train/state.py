"""The trained weights of a checkpoint, put into a model without an engine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from raypipe.errors import DamageError
from raypipe.store.files import Store


def load_trained(model: Any, store: Store, record: dict[str, Any]) -> None:
    """Puts the trained weights of a committed checkpoint into the model it was made of.

    Raises:
        DamageError: it does not hold the weights of this model.
    """
    folder = f"checkpoints/step-{record['step']:08d}"
    name = next(n for n in record["files"] if n.endswith("mp_rank_00_model_states.pt"))
    with tempfile.TemporaryDirectory(prefix="raypipe-trained-") as local:
        target = Path(local) / "state.pt"
        store.fetch(f"{folder}/{name}", target)
        states = torch.load(target, map_location="cpu", weights_only=True)["module"]
    own = dict(model.named_parameters())
    trained = {key.removeprefix("vlm."): value for key, value in states.items()}
    if not trained or trained.keys() - own.keys():
        raise DamageError(f"{store.root}/{folder}: not the weights of this model")
    with torch.no_grad():
        for key, value in trained.items():
            own[key].copy_(value)
