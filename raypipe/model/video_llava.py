"""Video-LLaVA as it was published: VideoLlava with LanguageBind's temporal video tower.

Its vocabulary is that of the language model, without rows for the two placeholders, as in the original: the
loss is then over the same logits. Their ids, beyond the vocabulary, are looked up as padding and replaced.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaModel,
)
from transformers.models.video_llava.modeling_video_llava import (
    VideoLlavaMultiModalProjector,
    VideoLlavaPreTrainedModel,
)

from raypipe.model.sizes import VIDEO_SIZES, size_of
from raypipe.model.towers import TemporalVisionConfig, TemporalVisionModel
from raypipe.model.video_llava_hf import VIDEO_LLAVA_HF

IMAGE_TOWER, VIDEO_TOWER = "LanguageBind/LanguageBind_Image", "LanguageBind/LanguageBind_Video_merge"


@strict
class TemporalVideoLlavaConfig(VideoLlavaConfig):
    """VideoLlava's config, a config of the video tower beside that of the image tower, and their names.

    ``video_config`` is that of the video tower; the inherited ``vision_config`` that of the image tower. The
    names are what the original layout calls the towers by.
    """

    model_type = "video_llava_temporal"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        **VideoLlavaConfig.sub_configs_defaults,
        "video_config": TemporalVisionConfig,
    }

    video_config: dict | PreTrainedConfig | None = None
    image_tower_name: str = IMAGE_TOWER
    video_tower_name: str = VIDEO_TOWER


class PlaceholderEmbedding(nn.Embedding):
    """Word embeddings for which ids beyond the vocabulary, the placeholders, are those of the padding."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids.masked_fill(ids >= self.num_embeddings, 0))


class TemporalVideoLlavaModel(VideoLlavaModel):
    """VideoLlavaModel with the temporal video tower."""

    config_class = TemporalVideoLlavaConfig

    def __init__(self, config: TemporalVideoLlavaConfig) -> None:
        VideoLlavaPreTrainedModel.__init__(self, config)
        self.video_tower = TemporalVisionModel._from_config(config.video_config)
        self.image_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = VideoLlavaMultiModalProjector(config)
        self.vocab_size = config.text_config.vocab_size
        self.language_model = AutoModel.from_config(config.text_config)
        words = self.language_model.get_input_embeddings()
        safe = PlaceholderEmbedding(words.num_embeddings, words.embedding_dim, words.padding_idx)
        self.language_model.set_input_embeddings(safe)
        self.post_init()

    def get_video_features(self, pixel_values_videos: torch.Tensor, **kwargs: Any) -> Any:
        """Projected features of clips [clips, frames, 3, H, W]."""
        return super().get_video_features(
            pixel_values_videos, num_frames=pixel_values_videos.shape[1], **kwargs
        )


class TemporalVideoLlavaForConditionalGeneration(VideoLlavaForConditionalGeneration):
    """VideoLlavaForConditionalGeneration with the temporal video tower."""

    config_class = TemporalVideoLlavaConfig

    def __init__(self, config: TemporalVideoLlavaConfig) -> None:
        VideoLlavaPreTrainedModel.__init__(self, config)
        self.model = TemporalVideoLlavaModel(config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()


def temporal_config(
    text: PreTrainedConfig, vision: PreTrainedConfig, video: TemporalVisionConfig, **more: Any
) -> TemporalVideoLlavaConfig:
    """The configuration of a model put together of these parts; lengths and placeholder ids follow from them.

    Args:
        more: further fields, which may also replace those that follow.
    """
    per_frame = (vision.image_size // vision.patch_size) ** 2
    ids = {name: getattr(text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    values = {
        "image_token_index": text.vocab_size,
        "video_token_index": text.vocab_size + 1,
        "image_seq_length": per_frame,
        "video_seq_length": video.num_frames * (per_frame + 1),
        "tie_word_embeddings": bool(getattr(text, "tie_word_embeddings", False)),
        **ids,
        **more,
    }
    return TemporalVideoLlavaConfig(vision_config=vision, video_config=video, text_config=text, **values)


def random(size: str, vocabulary: int) -> TemporalVideoLlavaConfig:
    """The configuration of a random Video-LLaVA at a named size; shapes as those of ``video_llava_hf``."""
    vision, text, shown = size_of(VIDEO_SIZES, size, "video_llava")
    shape = {**vision, "hidden_act": "gelu"}
    return temporal_config(
        LlamaConfig(**text, vocab_size=vocabulary, bos_token_id=1, eos_token_id=2, pad_token_id=0),
        CLIPVisionConfig(**shape),
        TemporalVisionConfig(**shape, num_frames=shown),
    )


AutoConfig.register(TemporalVideoLlavaConfig.model_type, TemporalVideoLlavaConfig)
AutoModelForImageTextToText.register(TemporalVideoLlavaConfig, TemporalVideoLlavaForConditionalGeneration)

VIDEO_LLAVA = replace(
    VIDEO_LLAVA_HF,
    name="video_llava",
    model_type=TemporalVideoLlavaConfig.model_type,
    cls=TemporalVideoLlavaForConditionalGeneration,
    random=random,
    note="",
)
