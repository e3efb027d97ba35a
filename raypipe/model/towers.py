"""LanguageBind's video tower: CLIP whose every layer first attends over the frames of a clip.

What transformers' CLIP classes lack and the reference's tower has: in each layer a ``temporal_embedding``
[1, frames, width], added to the hidden state where there is more than one frame, then a residual
``temporal_attn(temporal_layer_norm1(.))`` over the frames for each token by itself, the class token included;
after it the layer goes on as CLIP's does.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer


@strict
class TemporalVisionConfig(CLIPVisionConfig):
    """CLIP's vision config and the frames of a clip; ``temporal`` off is CLIP's own tower, frame by frame."""

    model_type = "languagebind_video"

    num_frames: int = 8
    temporal: bool = True


class TemporalLayer(CLIPEncoderLayer):
    """One layer: over time for each token, then CLIP's own over the tokens of each frame."""

    def __init__(self, config: TemporalVisionConfig) -> None:
        super().__init__(config)
        self.num_frames = config.num_frames
        self.temporal_embedding = nn.Parameter(torch.zeros(1, config.num_frames, config.hidden_size))
        self.temporal_attn = CLIPAttention(config)
        self.temporal_layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        num_frames: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        frames = num_frames or self.num_frames
        hidden_BTND = hidden_states.unflatten(0, (-1, frames))
        over_time = hidden_BTND.transpose(1, 2).flatten(0, 1)  # [clips * tokens, frames, width]
        if frames != 1:
            over_time = over_time + self.temporal_embedding
        attended, _ = self.temporal_attn(self.temporal_layer_norm1(over_time))
        over_time = over_time + attended
        back = over_time.unflatten(0, (-1, hidden_states.shape[1])).transpose(1, 2).flatten(0, 1)
        return super().forward(back, attention_mask, **kwargs)


class TemporalVisionModel(CLIPVisionModel):
    """The tower. Takes the frames of whole clips, one after another, as [clips * frames, 3, H, W]."""

    config_class = TemporalVisionConfig

    def __init__(self, config: TemporalVisionConfig) -> None:
        super().__init__(config)
        if config.temporal:
            layers = (TemporalLayer(config) for _ in range(config.num_hidden_layers))
            self.encoder.layers = nn.ModuleList(layers)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TemporalLayer):
            nn.init.normal_(module.temporal_embedding, std=module.embed_dim**-0.5)

    def forward(self, pixel_values: torch.Tensor, num_frames: int | None = None, **kwargs: Any) -> Any:
        """CLIP's outputs for frames [clips * frames, 3, H, W].

        Args:
            num_frames: of each clip: the config's, or 1, for which nothing is added over time.

        Raises:
            ValueError: another number of frames.
        """
        frames = num_frames or self.config.num_frames
        if not self.config.temporal:
            return super().forward(pixel_values, **kwargs)
        if frames not in (1, self.config.num_frames):
            raise ValueError(f"clips of {frames} frames for a tower of {self.config.num_frames}")
        if pixel_values.shape[0] % frames:
            raise ValueError(f"{pixel_values.shape[0]} frames are no whole clips of {frames}")
        return super().forward(pixel_values, num_frames=frames, **kwargs)


AutoConfig.register(TemporalVisionConfig.model_type, TemporalVisionConfig)
AutoModel.register(TemporalVisionConfig, TemporalVisionModel)
