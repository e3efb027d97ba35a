"""The family of transformers' VideoLlava: two CLIP towers, one projector, a Llama."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from raypipe.model.family import Family, Seen, project, size_of
from raypipe.model.pixels import CLIP_MEAN, CLIP_STD
from raypipe.records import MediumKind
from raypipe.text.chat import VisualTokens

PARTS = {
    "language_model": ("model.language_model.", "lm_head."),
    "multi_modal_projector": ("model.multi_modal_projector.",),
    "video_tower": ("model.video_tower.",),
    "image_tower": ("model.image_tower.",),
}


def see(tower: Any, pixels_NCHW: torch.Tensor, kind: MediumKind, config: Any) -> torch.Tensor:
    """Patch states of the feature layer; an image without its class token, a video frame with it."""
    states = tower(pixels_NCHW, output_hidden_states=True).hidden_states[config.vision_feature_layer]
    return states[:, 1:] if kind is MediumKind.IMAGE else states


def connect(model: Any, hidden: Seen) -> tuple[Seen, torch.Tensor]:
    return project(model.model.multi_modal_projector, hidden, model.config.vision_config.hidden_size)


def visual(config: Any) -> dict[MediumKind, VisualTokens]:
    return {
        MediumKind.IMAGE: VisualTokens(config.image_token_index, config.image_seq_length),
        MediumKind.VIDEO: VisualTokens(config.video_token_index, config.video_seq_length),
    }


def frames(config: Any) -> int:
    per_frame = (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + 1
    return int(config.video_seq_length) // per_frame


def random(size: str, vocabulary: int) -> VideoLlavaConfig:
    """The configuration of a random VideoLlava at a named size.

    ``tiny`` trains on two CPU cores in a minute; ``7b`` has the shape of the published model. The
    two placeholder ids come after the tokenizer's vocabulary.
    """
    vision, text, shown = size_of(SIZES, size, "video_llava")
    per_frame = (vision["image_size"] // vision["patch_size"]) ** 2
    return VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(
            **text, vocab_size=vocabulary + 2, bos_token_id=1, eos_token_id=2, pad_token_id=0
        ),
        image_token_index=vocabulary,
        video_token_index=vocabulary + 1,
        image_seq_length=per_frame,
        video_seq_length=shown * (per_frame + 1),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
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

VIDEO_LLAVA_HF = Family(
    name="video_llava_hf",
    model_type="video_llava",
    cls=VideoLlavaForConditionalGeneration,
    parts=PARTS,
    towers={MediumKind.IMAGE: "model.image_tower", MediumKind.VIDEO: "model.video_tower"},
    see=see,
    connect=connect,
    visual=visual,
    frames=frames,
    random=random,
    mean=CLIP_MEAN,
    std=CLIP_STD,
    note="transformers' VideoLlava: its video tower does not attend over time as the original's does",
)
