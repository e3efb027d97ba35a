"""Parameters by name and shape of the pieces that models are made of: linear layers, norms, vision towers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

FRAMES = 8  # of a video, where a configuration does not say


class Weight(NamedTuple):
    """One parameter of a model."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def linear(name: str, out: int, into: int, *, bias: bool = True) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", (out, into))
    if bias:
        yield Weight(f"{name}.bias", (out,))


def norm(name: str, width: int) -> Iterator[Weight]:
    yield from (Weight(f"{name}.weight", (width,)), Weight(f"{name}.bias", (width,)))


def _layer(name: str, width: int, inner: int) -> Iterator[Weight]:
    """A layer of a vision tower."""
    yield from _attention(f"{name}self_attn.", width)
    yield from norm(f"{name}layer_norm1", width)
    yield from linear(f"{name}mlp.fc1", inner, width)
    yield from linear(f"{name}mlp.fc2", width, inner)
    yield from norm(f"{name}layer_norm2", width)


def _attention(name: str, width: int) -> Iterator[Weight]:
    for each in ("k_proj", "v_proj", "q_proj", "out_proj"):
        yield from linear(f"{name}{each}", width, width)


def clip_tower(top: str, config: Mapping[str, Any], temporal: bool) -> Iterator[Weight]:
    width, inner, patch = (int(config[n]) for n in ("hidden_size", "intermediate_size", "patch_size"))
    tokens = (int(config["image_size"]) // patch) ** 2 + 1
    yield Weight(f"{top}embeddings.class_embedding", (width,))
    pixels = (width, int(config["num_channels"]), patch, patch)
    yield Weight(f"{top}embeddings.patch_embedding.weight", pixels)
    yield Weight(f"{top}embeddings.position_embedding.weight", (tokens, width))
    yield from norm(f"{top}pre_layrnorm", width)
    for number in range(int(config["num_hidden_layers"])):
        layer = f"{top}encoder.layers.{number}."
        yield from _layer(layer, width, inner)
        if temporal:
            yield Weight(f"{layer}temporal_embedding", (1, int(config.get("num_frames", FRAMES)), width))
            yield from _attention(f"{layer}temporal_attn.", width)
            yield from norm(f"{layer}temporal_layer_norm1", width)
    yield from norm(f"{top}post_layernorm", width)


def siglip_tower(top: str, config: Mapping[str, Any]) -> Iterator[Weight]:
    width, inner, patch = (int(config[n]) for n in ("hidden_size", "intermediate_size", "patch_size"))
    pixels = (width, int(config["num_channels"]), patch, patch)
    yield Weight(f"{top}embeddings.patch_embedding.weight", pixels)
    yield Weight(f"{top}embeddings.patch_embedding.bias", (width,))
    yield Weight(
        f"{top}embeddings.position_embedding.weight", ((int(config["image_size"]) // patch) ** 2, width)
    )
    for number in range(int(config["num_hidden_layers"])):
        yield from _layer(f"{top}encoder.layers.{number}.", width, inner)
    yield from norm(f"{top}post_layernorm", width)
    if config.get("vision_use_head", True):
        yield Weight(f"{top}head.probe", (1, 1, width))
        yield Weight(f"{top}head.attention.in_proj_weight", (3 * width, width))
        yield Weight(f"{top}head.attention.in_proj_bias", (3 * width,))
        yield from linear(f"{top}head.attention.out_proj", width, width)
        yield from norm(f"{top}head.layernorm", width)
        yield from linear(f"{top}head.mlp.fc1", inner, width)
        yield from linear(f"{top}head.mlp.fc2", width, inner)
