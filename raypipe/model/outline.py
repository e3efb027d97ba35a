"""The weights of a model by name and shape, from its configuration alone; nothing is loaded, not even torch.

Configurations are those of transformers' classes as they stand in ``config.json``, which leaves out what has
its default; the defaults are therefore here, too. ``tests/model/test_outline.py`` holds each name and shape
against the real classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raypipe.errors import RequestError, nearest
from raypipe.model.pieces import FRAMES, Weight, clip_tower, linear, siglip_tower
from raypipe.model.sizes import (
    ONEVISION_PARTS,
    ONEVISION_SIZES,
    ONEVISION_TOWERS,
    VIDEO_PARTS,
    VIDEO_SIZES,
    VIDEO_TOWERS,
    size_of,
)
from raypipe.records import MediumKind

_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
_QWEN2 = {**_LLAMA, "vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32}
_CLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
}
_SIGLIP = {**_CLIP, "patch_size": 16, "vision_use_head": True}


@dataclass(frozen=True)
class TextShape:
    """The language model: ``width`` is that of all query heads together, ``kept`` of keys (or values)."""

    layers: int
    hidden: int
    inner: int
    width: int
    kept: int
    vocabulary: int
    tied: bool


@dataclass(frozen=True)
class VisionShape:
    """A vision tower: ``tokens`` of one picture inside it, those of its ``patches`` and a class token."""

    layers: int
    hidden: int
    inner: int
    patches: int
    tokens: int
    side: int


@dataclass(frozen=True)
class Outline:
    """What is known of a model before it is built.

    Attributes:
        parts: part of the model -> prefixes of its parameter names.
        towers: kind of medium -> path of its tower; two kinds may share one.
        visual: kind of medium -> (id of its placeholder, tokens that it takes in the text).
        frames: that the model takes of a video.
    """

    family: str
    weights: tuple[Weight, ...]
    parts: Mapping[str, tuple[str, ...]]
    towers: Mapping[MediumKind, str]
    text: TextShape
    vision: VisionShape
    visual: Mapping[MediumKind, tuple[int, int]]
    frames: int
    template: str

    def part_of(self, name: str) -> str:
        found = next((part for part, prefixes in self.parts.items() if name.startswith(prefixes)), None)
        if found is None:
            raise RequestError(f"parameter {name} belongs to no part of family {self.family}")
        return found

    @property
    def count(self) -> int:
        return sum(weight.elements for weight in self.weights)

    def by_part(self) -> dict[str, int]:
        """Numbers of each part."""
        counts = dict.fromkeys(self.parts, 0)
        for weight in self.weights:
            counts[self.part_of(weight.name)] += weight.elements
        return counts


def outline_of(config: Mapping[str, Any]) -> Outline:
    """The outline of a configuration in the Hugging Face layout.

    Raises:
        RequestError: an architecture that no family knows, or a text or vision model of another kind.
    """
    makers = {
        "video_llava_temporal": _video_llava,
        "video_llava": _video_llava,
        "llava_onevision": _onevision,
    }
    kind = str(config.get("model_type"))
    if kind not in makers:
        raise RequestError(f"no model family for architecture '{kind}'", nearest(kind, makers))
    return makers[kind](config)


def random_outline(size: str, family: str, vocabulary: int) -> Outline:
    """The outline of a random model at a named size (see the families' ``random``).

    Args:
        vocabulary: of its tokenizer.

    Raises:
        RequestError: no such family or size.
    """
    if family == "llava_onevision":
        vision, text = size_of(ONEVISION_SIZES, size, family)
        text = {**text, "vocab_size": vocabulary + 2}
        both = {"vision_config": {**vision, "vision_use_head": False}, "text_config": text}
        ids = {"image_token_index": vocabulary, "video_token_index": vocabulary + 1, "video_frames": FRAMES}
        return outline_of({"model_type": family, **both, **ids})
    names = {"video_llava": "video_llava_temporal", "video_llava_hf": "video_llava"}
    if family not in names:
        raise RequestError(f"no model family '{family}'", nearest(family, [*names, "llava_onevision"]))
    shape, words, shown = size_of(VIDEO_SIZES, size, family)
    temporal = family == "video_llava"
    per_frame = (shape["image_size"] // shape["patch_size"]) ** 2
    return outline_of(
        {
            "model_type": names[family],
            "vision_config": shape,
            "video_config": {**shape, "num_frames": shown},
            "text_config": {**words, "vocab_size": vocabulary + (0 if temporal else 2)},
            "image_token_index": vocabulary,
            "video_token_index": vocabulary + 1,
            "image_seq_length": per_frame,
            "video_seq_length": shown * (per_frame + 1),
        }
    )


def assembled_outline(
    text: Mapping[str, Any],
    image: Mapping[str, Any],
    video: Mapping[str, Any],
    *,
    temporal: bool,
    frames: int,
) -> Outline:
    """The outline of a Video-LLaVA put together of a Llama and two towers in their own layouts."""
    vision = {**_CLIP, **image}
    per_frame = (int(vision["image_size"]) // int(vision["patch_size"])) ** 2
    words = int(text.get("vocab_size", _LLAMA["vocab_size"]))
    return outline_of(
        {
            "model_type": "video_llava_temporal",
            "vision_config": image,
            "video_config": {**video, "num_frames": frames, "temporal": temporal},
            "text_config": text,
            "tie_word_embeddings": bool(text.get("tie_word_embeddings", False)),
            "image_token_index": words,
            "video_token_index": words + 1,
            "image_seq_length": per_frame,
            "video_seq_length": frames * (per_frame + 1),
        }
    )


def _video_llava(config: Mapping[str, Any]) -> Outline:
    temporal = config["model_type"] == "video_llava_temporal"
    usual = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14}
    vision = {**_CLIP, **(config.get("vision_config") or usual)}
    video = {**_CLIP, **(config.get("video_config") or {})} if temporal else vision
    words = {**_LLAMA, **_of_kind(config.get("text_config"), "llama")}
    tied = bool(config.get("tie_word_embeddings", False))
    text, tower = _text_shape(words, tied), _vision_shape(vision, 1)
    width = text.hidden
    weights = [
        *clip_tower("model.video_tower.", video, temporal and bool(video.get("temporal", True))),
        *clip_tower("model.image_tower.", vision, False),
        *_projector(config, tower.hidden, width),
        *_llama(
            words, text, bias=bool(words.get("attention_bias")), out_bias=bool(words.get("attention_bias"))
        ),
    ]
    length = int(config.get("video_seq_length", 2056))
    return Outline(
        family="video_llava" if temporal else "video_llava_hf",
        weights=tuple(weights),
        parts=VIDEO_PARTS,
        towers=VIDEO_TOWERS,
        text=text,
        vision=tower,
        visual={
            MediumKind.IMAGE: (
                int(config.get("image_token_index", 32000)),
                int(config.get("image_seq_length", 256)),
            ),
            MediumKind.VIDEO: (int(config.get("video_token_index", 32001)), length),
        },
        frames=length // tower.tokens,
        template="v1",
    )


def _onevision(config: Mapping[str, Any]) -> Outline:
    usual = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }
    vision = {**_SIGLIP, **(config.get("vision_config") or usual)}
    words = {**_QWEN2, **_of_kind(config.get("text_config"), "qwen2")}
    text = _text_shape(words, bool(config.get("tie_word_embeddings", False)))
    tower = _vision_shape(vision, 0)
    grid = int(vision["image_size"]) // int(vision["patch_size"])
    frames = int(config.get("video_frames", FRAMES))
    weights = [
        Weight("model.image_newline", (text.hidden,)),
        *siglip_tower("model.vision_tower.", vision),
        *_projector(config, tower.hidden, text.hidden),
        *_llama(words, text, bias=True, out_bias=False),
    ]
    return Outline(
        family="llava_onevision",
        weights=tuple(weights),
        parts=ONEVISION_PARTS,
        towers=ONEVISION_TOWERS,
        text=text,
        vision=tower,
        visual={
            MediumKind.IMAGE: (int(config.get("image_token_index", 151646)), grid**2 + 1),
            MediumKind.VIDEO: (
                int(config.get("video_token_index", 151647)),
                frames * ((grid + 1) // 2) ** 2 + 1,
            ),
        },
        frames=frames,
        template="chatml",
    )


def _of_kind(config: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any]:
    found = dict(config or {})
    if found.get("model_type", kind) != kind:
        raise RequestError(
            f"the shapes of a language model of type '{found['model_type']}' are not known", f"known: {kind}"
        )
    return found


def _text_shape(words: Mapping[str, Any], tied: bool) -> TextShape:
    hidden, heads = int(words["hidden_size"]), int(words["num_attention_heads"])
    head = int(words.get("head_dim") or hidden // heads)
    return TextShape(
        layers=int(words["num_hidden_layers"]),
        hidden=hidden,
        inner=int(words["intermediate_size"]),
        width=heads * head,
        kept=int(words.get("num_key_value_heads") or heads) * head,
        vocabulary=int(words["vocab_size"]),
        tied=tied,
    )


def _vision_shape(vision: Mapping[str, Any], extra: int) -> VisionShape:
    patches = (int(vision["image_size"]) // int(vision["patch_size"])) ** 2
    return VisionShape(
        layers=int(vision["num_hidden_layers"]),
        hidden=int(vision["hidden_size"]),
        inner=int(vision["intermediate_size"]),
        patches=patches,
        tokens=patches + extra,
        side=int(vision["image_size"]),
    )


def _projector(config: Mapping[str, Any], into: int, width: int) -> Iterator[Weight]:
    layers = config.get("vision_feature_layer")
    count = len(layers) if isinstance(layers, (list, tuple)) else 1
    bias = bool(config.get("multimodal_projector_bias", True))
    yield from linear("model.multi_modal_projector.linear_1", width, into * count, bias=bias)
    yield from linear("model.multi_modal_projector.linear_2", width, width, bias=bias)


def _llama(words: Mapping[str, Any], text: TextShape, *, bias: bool, out_bias: bool) -> Iterator[Weight]:
    top, mlp_bias = "model.language_model.", bool(words.get("mlp_bias"))
    yield Weight(f"{top}embed_tokens.weight", (text.vocabulary, text.hidden))
    for number in range(text.layers):
        layer = f"{top}layers.{number}."
        yield from linear(f"{layer}self_attn.q_proj", text.width, text.hidden, bias=bias)
        yield from linear(f"{layer}self_attn.k_proj", text.kept, text.hidden, bias=bias)
        yield from linear(f"{layer}self_attn.v_proj", text.kept, text.hidden, bias=bias)
        yield from linear(f"{layer}self_attn.o_proj", text.hidden, text.width, bias=out_bias)
        yield from linear(f"{layer}mlp.gate_proj", text.inner, text.hidden, bias=mlp_bias)
        yield from linear(f"{layer}mlp.up_proj", text.inner, text.hidden, bias=mlp_bias)
        yield from linear(f"{layer}mlp.down_proj", text.hidden, text.inner, bias=mlp_bias)
        yield Weight(f"{layer}input_layernorm.weight", (text.hidden,))
        yield Weight(f"{layer}post_attention_layernorm.weight", (text.hidden,))
    yield Weight(f"{top}norm.weight", (text.hidden,))
    if not text.tied:
        yield Weight("lm_head.weight", (text.vocabulary, text.hidden))
