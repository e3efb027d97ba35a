"""What a rank of a stage takes, before it starts: weights, gradients, optimizer, activations, by ZeRO stage.

What DeepSpeed keeps of weights, gradients and optimizer follows from counts and is exact to its alignment
(mixed precision with AdamW is 16 bytes a trained weight: "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models", arXiv:1910.02054, section 3). Activations are an estimate: what PyTorch keeps of each layer
for its backward pass, at full rows of ``max_tokens``; the attention's scores are never kept (SDPA).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raypipe.model.outline import Outline
from raypipe.records import MediumKind
from raypipe.settings import StageSettings
from raypipe.train.learns import Learns

GIB = 1 << 30
BYTES = {"bf16": 2, "fp32": 4}
MASTER, MOMENTS = 4, 8  # bytes of a trained weight: fp32 copy, both moments of AdamW
BUCKET = 500_000_000  # elements: DeepSpeed's reduce_bucket_size, which raypipe leaves to it in ZeRO-1 and 2
LIVE = 1_000_000_000  # elements: DeepSpeed's stage3_max_live_parameters and sub_group_size
LABELS = 256  # of a sample, where it is not known: positions that logits are made for
LOGIT = 14  # bytes a logit: as the model makes it, in fp32, its softmax, its gradient
RUNTIME = 3 * GIB // 2  # CUDA's context, NCCL's buffers, cuBLAS's workspaces
SLACK = 0.05  # of the rest: what the allocator cannot use


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. ``steady`` lies on the device all the time, ``backward`` and ``step`` in their turn.

    Attributes:
        host: in the memory of the node, for this rank.
    """

    steady: dict[str, int]
    backward: dict[str, int]
    step: dict[str, int]
    host: dict[str, int]
    runtime: int

    @property
    def device_bytes(self) -> int:
        """The most that lies on the device at a time."""
        turn = max(sum(self.backward.values()), sum(self.step.values()))
        return round((sum(self.steady.values()) + turn) * (1 + SLACK)) + self.runtime

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())

    def row(self) -> dict[str, Any]:
        return {
            "steady": self.steady,
            "backward": self.backward,
            "step": self.step,
            "host": self.host,
            "runtime": self.runtime,
            "device_bytes": self.device_bytes,
            "host_bytes": self.host_bytes,
        }


@dataclass(frozen=True)
class Load:
    """What a micro-batch holds: rows, positions of a row, frames, and positions with a label."""

    rows: int
    tokens: int
    frames: int
    labels: int

    @classmethod
    def of(cls, settings: StageSettings, outline: Outline, labels: int | None = None) -> Load:
        """The largest that the settings allow: every row full, every sample a video where one fits.

        Args:
            labels: of a sample, where it is known.
        """
        video, image = (outline.visual[kind][1] for kind in (MediumKind.VIDEO, MediumKind.IMAGE))
        shown = outline.frames
        if settings.packing:
            shown = max(settings.max_tokens // video * outline.frames, settings.max_tokens // image, 1)
        each = LABELS if labels is None else labels
        rows = settings.micro_batch
        return cls(rows, settings.max_tokens, rows * shown, rows * each)


def memory_of(outline: Outline, learns: Learns, settings: StageSettings, world: int, load: Load) -> Memory:
    """Bytes of a rank of ``world``; of rank 0, whose share is never the smaller."""
    zero, sharding = settings.deepspeed.zero, settings.deepspeed
    each = BYTES[settings.precision]
    part = share_of(learns.groups, world, zero)
    whole = learns.inside + learns.trained
    if zero == 3:
        kept = sum(math.ceil(count / world) for count in (*learns.frozen_shapes, *_flat(learns.groups)))
        weights = each * (kept + learns.vectors) + each * learns.outside
        if sharding.offload_parameters:
            weights = each * (learns.vectors + learns.outside)
    else:
        weights = each * (whole + learns.outside)
    # In fp32 ZeRO-3 steps the weights themselves; ZeRO-1 and 2 have a copy all the same.
    master = 0 if zero == 3 and each == MASTER else MASTER * part
    states = master + MOMENTS * part
    sums = 4 if _sums_in_fp32(settings, world) else each
    gradients = _gradients(settings, learns, part, sums)
    on_gpu = settings.workers.gpus > 0
    backward = {
        "gradients": gradients,
        "gradient buckets": _buckets(settings, outline, sums, each, on_gpu),
        **({"gathered weights": each * min(LIVE, whole)} if zero == 3 else {}),
        "activations": activations_of(outline, learns, settings, load),
    }
    step = {
        "gradients": gradients,
        "gradients in fp32": 4 * (min(part, LIVE) if zero == 3 else part) if each == 2 else 0,
    }
    steady = {"weights": weights, "optimizer": states}
    host = {"weights while they are loaded": each * (whole + learns.outside), "checkpoint image": 12 * part}
    if sharding.offload_optimizer:
        steady["optimizer"], step["gradients in fp32"] = 0, 0
        host["optimizer"] = states + 4 * part  # with the gradients that it steps by
    if sharding.offload_parameters:
        host["weights"] = each * math.ceil(whole / world)
    return Memory(steady, backward, step, host, RUNTIME if on_gpu else 0)


def share_of(groups: Sequence[Sequence[int]], world: int, zero: int) -> int:
    """Elements of the optimizer's tensors on a rank.

    ZeRO-1 and 2 lay each group of parameters out flat and cut it into equal parts of even length; ZeRO-3 cuts
    each parameter.
    """
    if zero == 3:
        return sum(math.ceil(count / world) for count in _flat(groups))
    return sum(math.ceil(sum(group) / (2 * world)) * 2 for group in groups)


def activations_of(outline: Outline, learns: Learns, settings: StageSettings, load: Load) -> int:
    """Bytes at the height of a backward pass: the language model's, or the towers' if those are more."""
    each, text = BYTES[settings.precision], outline.text
    tokens = load.rows * load.tokens
    layer = tokens * _text_layer(outline, settings, each)
    scores = load.rows * load.tokens**2 * each  # the mask, which all layers share
    if settings.gradient_checkpointing:
        kept = each * tokens * text.hidden * text.layers + layer
    else:
        kept = layer * text.layers
    working = each * tokens * (2 * text.inner + text.hidden)  # gradients of the layer that is passed
    logits = LOGIT * load.labels * text.vocabulary
    words = 3 * each * tokens * text.hidden
    seen = _tower(outline, settings, load, each, learns=learns.towers)
    if learns.towers:
        return kept + scores + working + logits + words + seen
    pixels = each * load.frames * 3 * outline.vision.side**2
    return pixels + max(seen, kept + scores + working + logits + words)


def _text_layer(outline: Outline, settings: StageSettings, each: int) -> int:
    """Bytes that a layer of the language model keeps of a token."""
    text = outline.text
    norms = 2 * (4 + 2 * each) * text.hidden  # in fp32 inside; scaled, and as what comes after takes it
    attention = each * (3 * text.width + text.width)  # q, and k and v of as many heads; what comes out
    mlp = 4 * each * text.inner
    dropped = 0
    if settings.lora and settings.lora.dropout:
        dropped = (each + 1) * (5 * text.hidden + text.width + text.inner)  # an input and a mask a matrix
    return norms + attention + mlp + dropped


def _tower(outline: Outline, settings: StageSettings, load: Load, each: int, *, learns: bool) -> int:
    shape = outline.vision
    tokens = load.frames * shape.tokens
    states = each * tokens * shape.hidden * (shape.layers + 1)  # all are handed out, one is taken
    inside = each * tokens * (8 * shape.hidden + 2 * shape.inner)
    if not learns:
        return states + inside
    return states + (inside if settings.gradient_checkpointing else shape.layers * inside)


def _gradients(settings: StageSettings, learns: Learns, part: int, sums: int) -> int:
    if settings.deepspeed.zero == 1:
        return sums * learns.trained  # whole until the step
    if settings.deepspeed.offload_optimizer and settings.deepspeed.zero == 2:
        return 0
    return sums * part


def _buckets(settings: StageSettings, outline: Outline, sums: int, each: int, on_gpu: bool) -> int:
    if settings.deepspeed.zero == 3:
        return 2 * each * outline.text.hidden**2
    item = sums if settings.deepspeed.zero == 1 else each
    return item * BUCKET * (2 if on_gpu else 1)  # two, as one fills while the other is sent


def _sums_in_fp32(settings: StageSettings, world: int) -> bool:
    rows = math.ceil(settings.global_batch / world)
    return settings.precision == "bf16" and rows > settings.micro_batch


def _flat(groups: Sequence[Sequence[int]]) -> list[int]:
    return [count for group in groups for count in group]
