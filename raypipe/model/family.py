"""What a model family is: all that differs between architectures, as one value.

Nothing outside the entries (``families.py`` names them) asks which architecture a model has. What is common
to them: ``model.model.language_model`` takes embeddings, ``model.lm_head`` makes logits, and the config has a
``vision_config`` and a ``text_config``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from raypipe.errors import RequestError, nearest
from raypipe.records import MediumKind
from raypipe.text.chat import VisualTokens

Seen = dict[MediumKind, torch.Tensor]


def _side(config: Any) -> int:
    return int(config.vision_config.image_size)


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        cls: the class of its models; ``cls(config)`` has random weights.
        parts: part of the model -> prefixes of its parameter names.
        towers: kind of medium -> path of its vision tower below the model; two kinds may share one.
        see: (tower, pixels [frames, 3, side, side] of all media of a kind, the kind, config) -> hidden states
            [frames, tokens, width]: the part that is frozen as a rule.
        connect: (model, hidden states by kind) -> visual tokens by kind, each [n, tokens, width] in the order
            of the placeholders, and a tensor in which everything that learns here has a part. It runs each of
            its modules exactly once, whatever kinds there are, none included.
        visual: config -> what stands for each kind of medium in the input.
        frames: config -> how many frames of a video the model takes.
        random: (named size, vocabulary of the tokenizer) -> configuration of a random model.
        side: config -> side of the square pictures the towers take, in pixels.
        mean, std: of the pixels, by channel.
        template: the chat template it was trained with.
        note: what a user should know before choosing it.
    """

    name: str
    model_type: str
    cls: Any
    parts: dict[str, tuple[str, ...]]
    towers: dict[MediumKind, str]
    see: Callable[[Any, torch.Tensor, MediumKind, Any], torch.Tensor]
    connect: Callable[[Any, Seen], tuple[Seen, torch.Tensor]]
    visual: Callable[[Any], dict[MediumKind, VisualTokens]]
    frames: Callable[[Any], int]
    random: Callable[[str, int], Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: Callable[[Any], int] = _side
    template: str = "v1"
    note: str = ""

    def part_of(self, parameter: str) -> str:
        """The part that a parameter belongs to."""
        for part, prefixes in self.parts.items():
            if parameter.startswith(prefixes):
                return part
        raise RequestError(f"parameter {parameter} belongs to no part of family {self.name}")

    def check_parts(self, names: list[str]) -> None:
        for name in names:
            if name not in self.parts:
                raise RequestError(f"rates: {self.name} has no part '{name}'", nearest(name, self.parts))


def project(projector: Any, hidden: Seen, width: int) -> tuple[Seen, torch.Tensor]:
    """Runs a projector once over all kinds together, over one row of zeros where there is nothing.

    Under ZeRO-3 each call gathers the projector's weights, so every rank must make the same calls.

    Returns:
        Projected rows by kind, shaped as they came, and one of the rows [1, width of the words].
    """
    number = next(projector.parameters())
    blank = torch.zeros(1, width, dtype=number.dtype, device=number.device)
    rows = [states.flatten(0, 1) for states in hidden.values()]
    out = projector(torch.cat(rows) if rows else blank)
    split = out.split([len(r) for r in rows]) if rows else ()
    shaped = {
        kind: part.view(*states.shape[:2], -1)
        for (kind, states), part in zip(hidden.items(), split, strict=True)
    }
    return shaped, out[:1]
