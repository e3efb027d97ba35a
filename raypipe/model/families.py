"""Model families: all that differs between architectures, one entry each.

A family says which modules are language, vision and connector, how a medium becomes features, and
what stands for it in the input. Nothing outside this file asks which architecture it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from raypipe.errors import RequestError, nearest
from raypipe.model.towers import TemporalVisionConfig
from raypipe.model.video_llava import (
    TemporalVideoLlavaConfig,
    TemporalVideoLlavaForConditionalGeneration,
    temporal_config,
)
from raypipe.records import MediumKind
from raypipe.text.chat import VisualTokens

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        parts: part of the model -> prefixes of its parameter names.
        towers: kind of medium -> name of its vision tower below ``model.model``.
        visual: config -> what stands for each kind of medium in the input.
        select: (hidden state [N, tokens, width], kind) -> the feature tokens that are projected.
        random: (named size, vocabulary of the tokenizer) -> configuration of a random model.
        template: the chat template it was trained with.
        note: what a user should know before choosing it.
    """

    name: str
    model_type: str
    cls: Any
    parts: dict[str, tuple[str, ...]]
    towers: dict[MediumKind, str]
    visual: Callable[[Any], dict[MediumKind, VisualTokens]]
    select: Callable[[torch.Tensor, MediumKind], torch.Tensor]
    random: Callable[[str, int], Any]
    template: str = "v1"
    note: str = ""

    def frames(self, config: Any) -> int:
        """How many frames of a video the model takes."""
        per_frame = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
        return int(config.video_seq_length) // per_frame

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


def _video_llava_visual(config: Any) -> dict[MediumKind, VisualTokens]:
    return {
        MediumKind.IMAGE: VisualTokens(config.image_token_index, config.image_seq_length),
        MediumKind.VIDEO: VisualTokens(config.video_token_index, config.video_seq_length),
    }


def _video_llava_select(hidden: torch.Tensor, kind: MediumKind) -> torch.Tensor:
    # Video-LLaVA drops the class token of an image and keeps that of every video frame.
    return hidden[:, 1:] if kind is MediumKind.IMAGE else hidden


def family_of(config: Any) -> Family:
    """The family of a loaded configuration.

    Raises:
        RequestError: no family knows this architecture.
    """
    for family in FAMILIES.values():
        if family.model_type == config.model_type:
            return family
    raise RequestError(
        f"no model family for architecture '{config.model_type}'",
        nearest(str(config.model_type), [f.model_type for f in FAMILIES.values()]),
    )


def family_named(name: str) -> Family:
    """The family of a name, as ``start.family`` gives it.

    Raises:
        RequestError: there is none.
    """
    if name not in FAMILIES:
        raise RequestError(f"no model family '{name}'", nearest(name, FAMILIES))
    return FAMILIES[name]


def video_llava_config(size: str, vocabulary: int) -> VideoLlavaConfig:
    """The configuration of a random VideoLlava at a named size.

    ``tiny`` trains on two CPU cores in a minute; ``7b`` has the shape of the published model. The
    two placeholder ids come after the tokenizer's vocabulary.
    """
    vision, text, frames = _SIZES[size]
    per_frame = (vision["image_size"] // vision["patch_size"]) ** 2
    return VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(
            **text, vocab_size=vocabulary + 2, bos_token_id=1, eos_token_id=2, pad_token_id=0
        ),
        image_token_index=vocabulary,
        video_token_index=vocabulary + 1,
        image_seq_length=per_frame,
        video_seq_length=frames * (per_frame + 1),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def temporal_video_llava_config(size: str, vocabulary: int) -> TemporalVideoLlavaConfig:
    """The configuration of a random Video-LLaVA with its temporal video tower at a named size."""
    vision, text, frames = _SIZES[size]
    shape = {**vision, "hidden_act": "gelu"}
    return temporal_config(
        LlamaConfig(**text, vocab_size=vocabulary, bos_token_id=1, eos_token_id=2, pad_token_id=0),
        CLIPVisionConfig(**shape),
        TemporalVisionConfig(**shape, num_frames=frames),
    )


_SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "tiny": (
        {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 14,
            "projection_dim": 64,
        },
        {
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "initializer_range": 0.1,  # wider than usual: with 0.02 so small a model learns nothing over time
        },
        8,
    ),
    "7b": (
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
            "projection_dim": 768,
        },
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
        8,
    ),
}

FAMILIES = {
    "video_llava_hf": Family(
        name="video_llava_hf",
        model_type="video_llava",
        cls=VideoLlavaForConditionalGeneration,
        parts={
            "language_model": ("model.language_model.", "lm_head."),
            "multi_modal_projector": ("model.multi_modal_projector.",),
            "video_tower": ("model.video_tower.",),
            "image_tower": ("model.image_tower.",),
        },
        towers={MediumKind.IMAGE: "image_tower", MediumKind.VIDEO: "video_tower"},
        visual=_video_llava_visual,
        select=_video_llava_select,
        random=video_llava_config,
        note="transformers' VideoLlava: its video tower does not attend over time as the original's does",
    ),
}
FAMILIES["video_llava"] = replace(
    FAMILIES["video_llava_hf"],
    name="video_llava",
    model_type=TemporalVideoLlavaConfig.model_type,
    cls=TemporalVideoLlavaForConditionalGeneration,
    random=temporal_video_llava_config,
    note="",
)
