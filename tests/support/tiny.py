"""A tiny tokenizer and a tiny VideoLlava with random weights, from the real classes."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from raypipe.model.build import Card, LoadedModel, random_model, save_model
from raypipe.settings import Rendition, Sampling
from raypipe.text.chat import TEMPLATES
from raypipe.text.tokenizer import train_tokenizer

TEXTS = [
    *(t.system for t in TEMPLATES.values()),
    *["USER: ASSISTANT:"] * 8,
    "What moves in the clip? A yellow bar moves to the right. How many bars are there? Ten of them.",
]
LOSSLESS = Rendition(codec="lossless", short_side=32)


def tiny_tokenizer() -> Tokenizer:
    return train_tokenizer([f" {text}" for text in TEXTS])


def tiny_model(seed: int = 3, family: str = "video_llava_hf") -> LoadedModel:
    """Random weights, drawn wider than usual so that its answers depend on what it is shown."""
    loaded = random_model("tiny", tiny_tokenizer(), seed, family)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if parameter.ndim > 1 and "language_model" in name:
                parameter.mul_(4.0)
    loaded.model.eval()
    return loaded


def save_tiny(folder: Path, seed: int = 3) -> Path:
    """A tiny model as a folder in the Hugging Face layout."""
    save_model(tiny_model(seed), Card(sampling=Sampling(), rendition=LOSSLESS), folder)
    return folder
