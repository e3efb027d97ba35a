"""One rank of the modality matrix: python -m tests.train.modality_ranks RANK ZERO FOLDER CELLS.

In every cell the two ranks go forward and back with each pair of kinds of media. FOLDER/rank0.json says how
far the averaged gradients are from those of a single process. At the end comes transformers' own model,
taken plainly: its losses are noted as far as it gets.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from raypipe.model.build import LoadedModel, random_model
from raypipe.model.splice import Batch, LossHead
from raypipe.settings import StageSettings
from raypipe.train import engine as ds
from tests.model.batches import batch, theirs
from tests.support.tiny import tiny_tokenizer

KINDS = ("image", "video", "text", "both")
RATES = {
    "projector": ("video_llava_hf", ("multi_modal_projector",)),
    "full": ("video_llava_hf", ("multi_modal_projector", "language_model")),
    "tower": ("video_llava_hf", ("multi_modal_projector", "language_model", "video_tower")),
    "onevision": ("llava_onevision", ("multi_modal_projector", "image_newline", "language_model")),
    "shared tower": ("llava_onevision", ("multi_modal_projector", "image_newline", "vision_tower")),
}
PLAIN = (("image", "video"), ("image", "text"))
"""Shown to the plain model: ZeRO-3 mixes the weights of its towers up, and either stage ends at the text."""


def tiny(family: str = "video_llava_hf") -> LoadedModel:
    return random_model("tiny", tiny_tokenizer(), 3, family)


class Plain(torch.nn.Module):
    """transformers' forward, its towers where they are: what a trainer would wrap without further thought."""

    def __init__(self, model: torch.nn.Module, _family: object) -> None:
        super().__init__()
        self.model = model

    def forward(self, made: Batch) -> torch.Tensor:
        return theirs(self.model, made).loss * made.learned


def settings_of(rates: tuple[str, ...], zero: int) -> StageSettings:
    return StageSettings.model_validate(
        {
            "name": "matrix",
            "out": "unused",
            "start": {"random": "tiny"},
            "mixture": [{"data": "unused"}],
            "rates": dict.fromkeys(rates, 1e-3),
            "precision": "fp32",
            "deepspeed": {"zero": zero},
            "gradient_checkpointing": zero == 3,
        }
    )


def batches(loaded: LoadedModel, rank: int) -> dict[str, Batch]:
    """The ranks' samples differ, so that a rank that counts for another would be seen."""
    return {kind: batch(loaded, kind, first=3 * rank) for kind in KINDS}


def alone(cell: str) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Gradients of the summed loss in a single process: of each rank, by kind, by parameter."""
    family, rates = RATES[cell]
    loaded = tiny(family)
    ds.parameter_groups(loaded, settings_of(rates, 2))
    head, grads = LossHead(loaded.model, loaded.family), []
    for rank in range(2):
        grads.append({})
        for kind, made in batches(loaded, rank).items():
            loaded.model.zero_grad()
            head(made)[0].backward()
            learns = ((n, p) for n, p in loaded.model.named_parameters() if p.requires_grad)
            grads[rank][kind] = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in learns}
    return grads


def together(cell: str, rank: int, zero: int) -> dict[str, list[float]]:
    """By pair of kinds: largest difference to the single process, largest gradient, how many parameters."""
    from deepspeed.utils import safe_get_full_grad

    family, rates = RATES[cell]
    loaded = tiny(family)
    loaded.model.train()
    engine = ds.start_engine(loaded, settings_of(rates, zero))
    ds.set_rates(engine, 0.0)
    mine, found = batches(loaded, rank), {}
    reference = alone(cell) if rank == 0 else []
    others = batches(loaded, 1 - rank)
    for pair in itertools.product(KINDS, KINDS):
        learned = mine[pair[rank]].learned + others[pair[1 - rank]].learned
        engine.set_gradient_accumulation_boundary(is_boundary=True)
        loss, _ = engine(mine[pair[rank]])
        engine.backward(loss * (2 / learned))
        grads = {n: safe_get_full_grad(p) for n, p in loaded.model.named_parameters() if p.requires_grad}
        engine.step()
        if rank == 0:
            expected = {n: (g + reference[1][pair[1]][n]) / learned for n, g in reference[0][pair[0]].items()}
            assert grads.keys() == expected.keys()
            far = max(float((grads[n] - g).abs().max()) for n, g in expected.items())
            found["/".join(pair)] = [far, max(float(g.abs().max()) for g in grads.values()), len(grads)]
    return found


def plainly(rank: int, zero: int, note: Callable[[str, float], None]) -> None:
    """Notes of each pair that comes through how far this rank's loss is from that of one process."""
    loaded = tiny()
    made = batches(loaded, rank)
    with torch.no_grad():
        right = {kind: float(Plain(loaded.model, None)(shown)) for kind, shown in made.items()}
    ds.LossHead = Plain
    engine = ds.start_engine(loaded, settings_of(RATES["full"][1], zero))
    ds.set_rates(engine, 0.0)
    for pair in PLAIN:
        loss = engine(made[pair[rank]])
        engine.backward(loss)
        engine.step()
        note("/".join(pair), abs(float(loss) - right[pair[rank]]))


def main(rank: int, zero: int, folder: Path, cells: list[str]) -> None:
    ds.prepare_environment(0)
    import deepspeed

    # Nothing stays whole under ZeRO-3: with its usual threshold the tiny model would not be shared out.
    initialize = deepspeed.initialize

    @functools.wraps(initialize)
    def sharing(*, config, **more):
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return initialize(config=config, **more)

    deepspeed.initialize = sharing
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    result, file = {}, folder / f"rank{rank}.json"

    def note(name: str, value: Any) -> None:
        result[name] = value
        file.write_text(json.dumps(result))

    for cell in cells:
        note(cell, together(cell, rank, zero))
    plainly(rank, zero, note)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4].split(","))
