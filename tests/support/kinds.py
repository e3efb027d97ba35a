"""One model of every kind that can be evaluated, and a finished run with a model in it."""

from __future__ import annotations

from pathlib import Path

import torch

from raypipe.model.build import load_model, save_model
from raypipe.model.cards import Card
from raypipe.model.lora import add_lora
from raypipe.settings import Lora, StageSettings
from raypipe.store.run import Manifest, Run
from tests.support.originals import Originals
from tests.support.tiny import LOSSLESS, save_tiny

KINDS = (
    "hugging face",
    "run",
    "lora",
    "lora of a run",
    "original",
    "original lora",
    "original lora over its language model",
    "original stage 1",
    "original stage 1 over its language model",
)
Named = tuple[str, str | None]


def models(root: Path, originals: Originals) -> dict[str, Named]:
    """Model and base of every kind; folders are named so that a name says nothing."""
    whole = save_tiny(root / "a")
    run, tuned = finished_run(root / "b"), finished_run(root / "d")
    save_tiny(run / "model", seed=5)
    save_lora(root / "c", str(whole))
    save_lora(tuned / "model", str(run))
    found: dict[str, Named] = {
        "hugging face": (str(whole), None),
        "run": (str(run), None),
        "lora": (str(root / "c"), str(whole)),
        "lora of a run": (str(tuned), str(run)),
        "original": (originals.whole, None),
        "original lora": (originals.lora, originals.whole),
        "original lora over its language model": (originals.lora, originals.llm),
        "original stage 1": (originals.stage1, originals.whole),
        "original stage 1 over its language model": (originals.stage1, originals.llm),
    }
    assert tuple(found) == KINDS
    return found


def save_lora(out: Path, base: str) -> None:
    """An adapter whose weights matter, with a projector beside it."""
    settings = Lora(r=4, alpha=8, dropout=0.0)
    loaded = add_lora(load_model(base), settings, ["multi_modal_projector"], base)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(loaded, Card(image_aspect="square", rendition=LOSSLESS), out)


def finished_run(out: Path) -> Path:
    """A committed training run without a model yet."""
    values = {
        "name": "s",
        "out": str(out),
        "start": {"random": "tiny", "family": "video_llava_hf"},
        "mixture": [{"data": "unused"}],
        "rates": {"language_model": 1e-3},
        "precision": "fp32",
        "max_tokens": 1024,
        "steps": 1,
    }
    run = Run.start(str(out), "train", StageSettings.model_validate(values))
    run.commit(Manifest("train", [], {"inputs": 0, "ok": 0, "quarantined": 0}), [])
    return out
