"""The named sizes of random models, and which parameters make up the parts of a family: plain values."""

from __future__ import annotations

from typing import Any

from raypipe.errors import RequestError
from raypipe.records import MediumKind

VIDEO_PARTS: dict[str, tuple[str, ...]] = {
    "language_model": ("model.language_model.", "lm_head."),
    "multi_modal_projector": ("model.multi_modal_projector.",),
    "video_tower": ("model.video_tower.",),
    "image_tower": ("model.image_tower.",),
}
VIDEO_TOWERS = {MediumKind.IMAGE: "model.image_tower", MediumKind.VIDEO: "model.video_tower"}
ONEVISION_PARTS: dict[str, tuple[str, ...]] = {
    "language_model": ("model.language_model.", "lm_head."),
    "multi_modal_projector": ("model.multi_modal_projector.",),
    "image_newline": ("model.image_newline",),
    "vision_tower": ("model.vision_tower.",),
}
ONEVISION_TOWERS = {MediumKind.IMAGE: "model.vision_tower", MediumKind.VIDEO: "model.vision_tower"}

LANGUAGEBIND: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}
VIDEO_SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
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
        LANGUAGEBIND,
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

ONEVISION_SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tiny": (
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 14,
        },
        {
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "initializer_range": 0.1,
        },
    ),
    "7b": (
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
        },
    ),
}


def size_of(sizes: dict[str, Any], size: str, family: str) -> Any:
    """The entry of a named size.

    Raises:
        RequestError: the family has no such size.
    """
    if size not in sizes:
        raise RequestError(f"{family} has no size '{size}'", f"sizes: {', '.join(sizes)}")
    return sizes[size]
