"""What an actor of an evaluation takes on its device: weights, caches, and what lies there while it works.

Weights and the bytes of a cached token are exact. How long prompts are is bounded by the longest question, at
three characters a token; the cache is counted for a full batch of such prompts.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from raypipe.evaluate.batches import TOGETHER
from raypipe.model.facts import BYTES
from raypipe.model.outline import Outline
from raypipe.records import MediumKind

CHARS_PER_TOKEN = 3.0
TEMPLATE_TOKENS = 64  # of what a template says around a question
RUNTIME = 1 << 30  # CUDA's context and the workspaces of its libraries


@dataclass(frozen=True)
class Actor:
    """Bytes on the device.

    Attributes:
        cache: keys and values of a full batch, prompts and answers.
        prefixes: the same of what the questions of each medium share, which the batch's rows are copies of.
        working: vision features and what one layer makes of the prompts that are read together.
        prompt_tokens: the longest prompt, its visual tokens included.
    """

    weights: int
    cache: int
    prefixes: int
    working: int
    runtime: int
    prompt_tokens: int

    @property
    def device_bytes(self) -> int:
        return self.weights + self.cache + self.prefixes + self.working + self.runtime

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "device_bytes": self.device_bytes}


def actor_memory(
    outline: Outline,
    *,
    precision: str,
    batch: int,
    kinds: Collection[MediumKind],
    question_chars: int,
    new_tokens: int,
    on_gpu: bool,
) -> Actor:
    """Bytes of an actor.

    Args:
        kinds: of the media that are asked about.
        question_chars: of the longest question.
        new_tokens: of the longest answer.
    """
    each, text, shape = BYTES[precision], outline.text, outline.vision
    seen = max((outline.visual[kind][1] for kind in kinds), default=0)
    prompt = seen + TEMPLATE_TOKENS + math.ceil(question_chars / CHARS_PER_TOKEN)
    token = 2 * text.layers * text.kept * each
    together = max(1, TOGETHER // prompt)  # media whose prefixes are made at once
    frames = together * (outline.frames if MediumKind.VIDEO in kinds else 1) if kinds else 0
    vision = each * frames * shape.tokens * (shape.hidden * (shape.layers + 1 + 8) + 2 * shape.inner)
    layer = each * together * prompt * (6 * text.hidden + 3 * text.inner)
    return Actor(
        weights=each * outline.count,
        cache=batch * (prompt + new_tokens) * token,
        prefixes=max(batch, together) * prompt * token,
        working=max(vision, layer),
        runtime=RUNTIME if on_gpu else 0,
        prompt_tokens=prompt,
    )
