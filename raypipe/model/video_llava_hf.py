"""The family of transformers' VideoLlava: two CLIP towers, one projector, a Llama."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from raypipe.model.family import Family, Seen, project
from raypipe.model.pixels import CLIP_MEAN, CLIP_STD
from raypipe.model.sizes import VIDEO_PARTS, VIDEO_SIZES, VIDEO_TOWERS, size_of
from raypipe.records import MediumKind
from raypipe.text.chat import VisualTokens


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
    vision, text, shown = size_of(VIDEO_SIZES, size, "video_llava")
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


VIDEO_LLAVA_HF = Family(
    name="video_llava_hf",
    model_type="video_llava",
    cls=VideoLlavaForConditionalGeneration,
    parts=VIDEO_PARTS,
    towers=VIDEO_TOWERS,
    see=see,
    connect=connect,
    visual=visual,
    frames=frames,
    random=random,
    mean=CLIP_MEAN,
    std=CLIP_STD,
    note="transformers' VideoLlava: its video tower does not attend over time as the original's does",
)
