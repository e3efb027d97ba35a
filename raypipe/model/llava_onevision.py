"""The family of transformers' LlavaOnevision: one SigLIP tower for images and videos, a Qwen2.

An image is one view of the model's side, as transformers packs a single patch: its tokens and a newline. A
video's frames are pooled to a quarter of their tokens, and one newline closes it. The pixels of frames come
with the number of frames that ``video_frames`` of the config says (8 where it says nothing).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from raypipe.model.family import Family, Seen, project
from raypipe.model.sizes import ONEVISION_PARTS, ONEVISION_SIZES, ONEVISION_TOWERS, size_of
from raypipe.records import MediumKind
from raypipe.text.chat import VisualTokens

FRAMES = 8


def see(tower: Any, pixels_NCHW: torch.Tensor, kind: MediumKind, config: Any) -> torch.Tensor:
    states = tower(pixels_NCHW, output_hidden_states=True).hidden_states[config.vision_feature_layer]
    return states[:, 1:] if config.vision_feature_select_strategy == "default" else states


def connect(model: Any, hidden: Seen) -> tuple[Seen, torch.Tensor]:
    """Projects; an image gets its newline; a video's frames are pooled after projection, then the newline."""
    config, newline = model.config, model.model.image_newline
    tokens, row = project(model.model.multi_modal_projector, hidden, config.vision_config.hidden_size)
    made: Seen = {}
    for kind, states in tokens.items():
        if kind is MediumKind.VIDEO:
            pooled = _pooled(states, _grid(config))
            states = pooled.reshape(-1, frames(config) * pooled.shape[1], pooled.shape[2])
        ends = newline.to(states.dtype).expand(states.shape[0], 1, -1)
        made[kind] = torch.cat((states, ends), dim=1)
    return made, row + newline.to(row.dtype)


def visual(config: Any) -> dict[MediumKind, VisualTokens]:
    grid = _grid(config)
    return {
        MediumKind.IMAGE: VisualTokens(config.image_token_index, grid**2 + 1),
        MediumKind.VIDEO: VisualTokens(config.video_token_index, frames(config) * ((grid + 1) // 2) ** 2 + 1),
    }


def frames(config: Any) -> int:
    return int(getattr(config, "video_frames", FRAMES))


def random(size: str, vocabulary: int) -> LlavaOnevisionConfig:
    """The configuration of a random LlavaOnevision; the placeholder ids come after the vocabulary."""
    vision, text = size_of(ONEVISION_SIZES, size, "llava_onevision")
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**vision, vision_use_head=False),
        text_config=Qwen2Config(
            **text, **ids, vocab_size=vocabulary + 2, tie_word_embeddings=False, use_sliding_window=False
        ),
        image_token_index=vocabulary,
        video_token_index=vocabulary + 1,
        image_grid_pinpoints=[[vision["image_size"]] * 2],
        video_frames=FRAMES,
        **ids,
    )


def _grid(config: Any) -> int:
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def _pooled(states_NTD: torch.Tensor, grid: int) -> torch.Tensor:
    square = states_NTD.unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    half = (grid + 1) // 2
    return functional.interpolate(square, size=(half, half), mode="bilinear").flatten(2).transpose(1, 2)


LLAVA_ONEVISION = Family(
    name="llava_onevision",
    model_type="llava_onevision",
    cls=LlavaOnevisionForConditionalGeneration,
    parts=ONEVISION_PARTS,
    towers=ONEVISION_TOWERS,
    see=see,
    connect=connect,
    visual=visual,
    frames=frames,
    random=random,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    template="chatml",
    note="an image is one view of the model's side; its tiles (anyres) are not made",
)
