"""Names and shapes worked out from a configuration are those of the real classes."""

import json

import pytest
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
    VideoLlavaConfig,
)

from raypipe.errors import RequestError
from raypipe.model.families import FAMILIES, family_named
from raypipe.model.outline import outline_of, random_outline
from raypipe.model.towers import TemporalVisionConfig
from raypipe.model.video_llava import temporal_config
from raypipe.model.weights import empty


def real(family: str, config) -> dict[str, tuple[int, ...]]:
    model = empty(lambda: family_named(family).cls(config))
    if config.tie_word_embeddings:  # a model without memory is not tied by itself
        model.lm_head.weight = model.get_input_embeddings().weight
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def said(outline) -> dict[str, tuple[int, ...]]:
    return {weight.name: weight.shape for weight in outline.weights}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", ["tiny", "7b"])
def test_random_models(family, size):
    kind = family_named(family)
    config = kind.random(size, 1234)
    outline = random_outline(size, family, 1234)
    assert said(outline) == real(family, config)
    assert outline.family == family
    assert outline.template == kind.template
    assert outline.frames == kind.frames(config)
    assert outline.vision.side == kind.side(config)
    assert outline.towers == kind.towers
    assert outline.parts == kind.parts
    assert outline.visual == {k: (v.token_id, v.count) for k, v in kind.visual(config).items()}
    assert sum(outline.by_part().values()) == outline.count


TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MADE = {
    "temporal, tied, of other lengths": (
        "video_llava",
        lambda: temporal_config(
            LlamaConfig(**TEXT, vocab_size=99, tie_word_embeddings=True, num_key_value_heads=2),
            CLIPVisionConfig(**VISION, image_size=28, patch_size=14),
            TemporalVisionConfig(**VISION, image_size=28, patch_size=14, num_frames=4),
        ),
    ),
    "without attention over time": (
        "video_llava",
        lambda: temporal_config(
            LlamaConfig(**TEXT, vocab_size=99, attention_bias=True, mlp_bias=True, head_dim=8),
            CLIPVisionConfig(**VISION),
            TemporalVisionConfig(**VISION, temporal=False),
        ),
    ),
    "transformers' defaults": ("video_llava_hf", VideoLlavaConfig),
    "two feature layers": (
        "video_llava_hf",
        lambda: VideoLlavaConfig(
            text_config=LlamaConfig(**TEXT, vocab_size=99),
            vision_config=CLIPVisionConfig(**VISION),
            vision_feature_layer=[-2, -1],
            multimodal_projector_bias=False,
        ),
    ),
    "a tower with its head": (
        "llava_onevision",
        lambda: LlavaOnevisionConfig(
            text_config=Qwen2Config(**TEXT, vocab_size=99, num_key_value_heads=2),
            vision_config=SiglipVisionConfig(**VISION),
        ),
    ),
}


@pytest.mark.parametrize("case", MADE)
def test_configurations_as_they_are_saved(case, tmp_path):
    family, make = MADE[case]
    config = make()
    config.save_pretrained(tmp_path)
    outline = outline_of(json.loads((tmp_path / "config.json").read_text()))
    assert said(outline) == real(family, config)


def test_what_is_not_known_is_refused():
    with pytest.raises(RequestError, match="no model family for architecture 'llama'"):
        outline_of({"model_type": "llama"})
    with pytest.raises(RequestError, match="of type 'mistral' are not known"):
        outline_of({"model_type": "video_llava", "text_config": {"model_type": "mistral"}})
    with pytest.raises(RequestError, match="no model family 'lava'"):
        random_outline("tiny", "lava", 10)
