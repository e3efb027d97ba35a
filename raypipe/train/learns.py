"""What of a model learns in a stage, by counts alone: which weights, in which groups, with which adapters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from raypipe.errors import RequestError, nearest
from raypipe.model.outline import Outline
from raypipe.model.pieces import Weight
from raypipe.settings import StageSettings

PROJECTOR = "multi_modal_projector"
LOOKED_UP = ("embed_tokens.", "embedding.")  # no matrices that LoRA lays adapters over


@dataclass(frozen=True)
class Learns:
    """Numbers of elements.

    Attributes:
        groups: of each group of parameters that learns at one rate and decay, those of its parameters.
        by_part: part of the model, or ``adapters``, -> elements that learn.
        frozen_shapes: of each frozen parameter that DeepSpeed shares out under ZeRO-3.
        outside: of towers that do not learn: they are no part of what DeepSpeed sees.
        vectors: of parameters that ZeRO-3 leaves whole on every rank.
        towers: whether a tower learns.
        adapters: LoRA's parameters by name.
        saved: elements that the export writes.
    """

    groups: tuple[tuple[int, ...], ...]
    by_part: dict[str, int]
    frozen_shapes: tuple[int, ...]
    outside: int
    vectors: int
    towers: bool
    adapters: tuple[Weight, ...]
    saved: int

    @property
    def trained(self) -> int:
        return sum(sum(group) for group in self.groups)

    @property
    def inside(self) -> int:
        """Frozen elements that DeepSpeed sees."""
        return sum(self.frozen_shapes)


def learns_of(outline: Outline, settings: StageSettings) -> Learns:
    """Sorts a model's weights as the stage would.

    Raises:
        RequestError: an unknown part, targets without a module, or nothing that learns.
    """
    for name in settings.rates:
        if name not in outline.parts:
            raise RequestError(
                f"rates: {outline.family} has no part '{name}'", nearest(name, list(outline.parts))
            )
    adapters = _adapters(outline, settings)
    groups: dict[tuple[float, float], list[int]] = {}
    by_part: dict[str, int] = {}
    frozen, vectors, outside, copied = [], 0, 0, 0
    whole_towers = {outline.part_of(f"{path}.") for path in outline.towers.values()}
    beside = saved_parts(settings) if settings.lora else []
    persistent = 10 * outline.text.hidden
    for weight in (*outline.weights, *adapters):
        adapter = "lora_" in weight.name
        part = "adapters" if adapter else outline.part_of(weight.name)
        rate = _rate(part, settings)
        copied += weight.elements if part in beside else 0
        if rate > 0:
            decay = settings.optimizer.weight_decay if len(weight.shape) > 1 else 0.0
            groups.setdefault((rate, decay), []).append(weight.elements)
            by_part[part] = by_part.get(part, 0) + weight.elements
        elif part in whole_towers:
            outside += weight.elements
            continue
        else:
            frozen.append(weight.elements)
        vectors += weight.elements if weight.elements <= persistent else 0
        if part in beside:  # PEFT keeps the part as it was beside the one that learns
            frozen.append(weight.elements)
    if not groups:
        raise RequestError(
            "nothing learns: no part has a rate", f"set rates.PART=...: {', '.join(outline.parts)}"
        )
    return Learns(
        groups=tuple(tuple(group) for _, group in sorted(groups.items(), key=lambda item: item[0])),
        by_part=by_part,
        frozen_shapes=tuple(frozen),
        outside=outside,
        vectors=vectors,
        towers=bool(whole_towers & by_part.keys()),
        adapters=adapters,
        saved=sum(w.elements for w in adapters) + copied if settings.lora else outline.count,
    )


def saved_parts(settings: StageSettings) -> list[str]:
    """Parts that are saved with an adapter: what learns, and a projector that its base does not hold."""
    start = settings.start
    elsewhere = start.parts or start.projector or start.model_base
    return list(dict.fromkeys([*settings.rates, *([PROJECTOR] if elsewhere else [])]))


def _rate(part: str, settings: StageSettings) -> float:
    if part == "adapters":
        return settings.lora.rate if settings.lora else 0.0
    if settings.lora and part == "language_model":
        return 0.0
    return settings.rates.get(part, 0.0)


def _adapters(outline: Outline, settings: StageSettings) -> tuple[Weight, ...]:
    """LoRA's two matrices over each matrix that the targets name."""
    if settings.lora is None:
        return ()
    found = []
    for name, shape in outline.weights:
        module, _, kind = name.rpartition(".")
        if kind != "weight" or len(shape) != 2 or any(mark in name for mark in LOOKED_UP):
            continue
        if re.fullmatch(settings.lora.targets, module):
            found.append(Weight(f"{module}.lora_A.default.weight", (settings.lora.r, shape[1])))
            found.append(Weight(f"{module}.lora_B.default.weight", (shape[0], settings.lora.r)))
    if not found:
        raise RequestError(
            f"lora.targets matches no module of the model: {settings.lora.targets}",
            "a regular expression over whole names; the default takes the language model's linear layers",
        )
    return tuple(found)
