"""Model FLOPs of a training step, by the shapes of the weights and what of them learns.

A matrix costs 2 FLOPs a weight and token forward, 2 more where gradients flow through it and 2 more where it
learns: 4 frozen, 6 learning. What is before everything that learns costs 2. Recomputation is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raypipe.records import MediumKind

if TYPE_CHECKING:
    import torch

COUNTED = (
    "model FLOPs: per token 4 a frozen and 6 a learning weight (lookups left out, the output layer at every "
    "token), causal attention at the mean sample length; towers that do not learn forward only; "
    "recomputation not counted"
)
# Dense bf16 peaks from the makers' data sheets, by the beginning of the device's name after the maker's.
PEAKS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


@dataclass(frozen=True)
class Flops:
    """What a step costs.

    Attributes:
        token: matrices of the language model, per token.
        lora: adapters, per token.
        attention: per token and token of mean sample length.
        frame: tower and projector, per frame, by kind of medium.
    """

    token: float
    lora: float
    attention: float
    frame: Mapping[MediumKind, float]

    def of(self, tokens: int, samples: int, frames: Mapping[MediumKind, int]) -> float:
        """FLOPs of a step of so many tokens in so many samples with so many frames."""
        length = tokens / max(1, samples)
        text = tokens * (self.token + self.lora + self.attention * length)
        return text + sum(self.frame.get(kind, 0.0) * count for kind, count in frames.items())


def flops_of(model: Any, family: Any, config: Any, parts: Iterable[str], lora: bool) -> Flops:
    """Counts a model's costs.

    Args:
        model: the model or PEFT's wrapper around it; only names and shapes are used.
        parts: the parts that learn (``rates``); under LoRA the language model itself is frozen.
    """
    text, vision = config.text_config, config.vision_config
    tied = getattr(config, "tie_word_embeddings", False) or getattr(text, "tie_word_embeddings", False)
    shapes = (  # ZeRO-3 leaves an empty tensor behind
        (name, tuple(getattr(parameter, "ds_shape", parameter.shape)))
        for name, parameter in _parameters(model, family)
    )
    return counted(
        shapes,
        {kind: family.part_of(f"{path}.") for kind, path in family.towers.items()},
        family.part_of,
        set(parts) - ({"language_model"} if lora else set()),
        tied=bool(tied),
        text=(
            text.num_attention_heads * (getattr(text, "head_dim", None) or _head(text)),
            text.num_hidden_layers,
        ),
        tower=(
            (vision.image_size // vision.patch_size) ** 2 + 1,
            vision.hidden_size,
            vision.num_hidden_layers,
        ),
    )


def counted(
    shapes: Iterable[tuple[str, tuple[int, ...]]],
    towers: Mapping[MediumKind, str],
    part_of: Callable[[str], str],
    learns: set[str],
    *,
    tied: bool,
    text: tuple[int, int],
    tower: tuple[int, int, int],
) -> Flops:
    """The costs by the names and shapes of all parameters, adapters too.

    Args:
        towers: kind of medium -> the part that is its tower.
        learns: parts that learn in full.
        tied: words and logits share one weight.
        text: of the language model: width of all heads, layers.
        tower: tokens of a frame, width, layers.
    """
    sizes: dict[str, float] = {}
    adapters = 0
    for name, shape in shapes:
        if len(shape) < 2 or "original_module" in name:
            continue
        count = math.prod(shape)
        if "lora_" in name:
            adapters += count
            continue
        plain = name.removeprefix("base_model.model.")
        plain = plain.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
        looked_up = "position" in plain or "embeddings.class" in plain or "temporal_embedding" in plain
        if looked_up or ("embed_tokens" in plain and not tied):
            continue
        part = part_of(plain)
        sizes[part] = sizes.get(part, 0.0) + count
    towers_learn = bool(learns & set(towers.values()))
    connector = sum(
        (6 if part in learns else 4 if towers_learn else 2) * size
        for part, size in sizes.items()
        if part not in towers.values() and part != "language_model"
    )
    patches, hidden, layers = tower
    frame = {
        kind: patches
        * (
            (6 if name in learns else 2) * sizes.get(name, 0.0)
            + connector
            + (12 if name in learns else 4) * patches * hidden * layers
        )
        for kind, name in towers.items()
    }
    return Flops(
        token=(6 if "language_model" in learns else 4) * sizes.get("language_model", 0.0),
        lora=6.0 * adapters,
        attention=6.0 * text[0] * text[1],  # half of 2 products, forward and twice backward
        frame=frame,
    )


def _parameters(model: Any, family: Any) -> Iterator[tuple[str, Any]]:
    """All parameters by name, those of frozen towers too, which DeepSpeed's module tree lacks."""
    seen = set()
    for name, parameter in model.named_parameters():
        seen.add(id(parameter))
        yield name, parameter
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model
    for path in dict.fromkeys(family.towers.values()):
        for name, parameter in inside.get_submodule(path).named_parameters():
            if id(parameter) not in seen:
                yield f"{path}.{name}", parameter


def _head(text: Any) -> int:
    return int(text.hidden_size // text.num_attention_heads)


def peak_of(device: torch.device, dtype: torch.dtype) -> tuple[float | None, str]:
    """FLOP/s that the device can do at best, and where the figure is from; None on a CPU.

    A device that the table does not know, or another number format than bf16, is measured by a short matmul.
    """
    import torch  # what only counts does without

    if device.type != "cuda":
        return None, "no peak is known of a CPU"
    name = torch.cuda.get_device_name(device)
    plain = name.removeprefix("NVIDIA ")
    known = next((peak for start, peak in PEAKS.items() if plain.startswith(start)), None)
    if known is not None and dtype == torch.bfloat16:
        return known, f"peak {known / 1e12:.0f} TFLOP/s: {name}, bf16 dense, data sheet"
    measured = _measured(device, dtype)
    return measured, f"peak {measured / 1e12:.0f} TFLOP/s: a matmul of 4096 in {dtype} measured on {name}"


def _measured(device: torch.device, dtype: torch.dtype, side: int = 4096, times: int = 10) -> float:
    import torch

    left = torch.randn(side, side, device=device, dtype=dtype)
    for _ in range(3):
        left @ left
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    for _ in range(times):
        left @ left
    ended.record()
    torch.cuda.synchronize(device)
    return 2.0 * side**3 * times / (began.elapsed_time(ended) / 1e3)
