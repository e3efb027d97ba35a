"""What a stage whose ranks do not fit could do: other settings, and what a rank takes with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raypipe.model.outline import Outline
from raypipe.settings import Lora, Sharding, StageSettings
from raypipe.train.learns import Learns, learns_of
from raypipe.train.memory import Load, memory_of

LANGUAGE_MODEL = "language_model"
SHARDED = {"zero": 3}
OFFLOADED = {"zero": 3, "offload_optimizer": True}
ALL_OFFLOADED = {"zero": 3, "offload_optimizer": True, "offload_parameters": True}
MOST_TIMES = 16  # as many workers as that are worth a thought


def ways_of(
    outline: Outline, learns: Learns, settings: StageSettings, labels: int | None
) -> list[dict[str, Any]]:
    """Settings that take less, each with ``device_bytes`` of a rank; of a ``kind`` the least change first.

    Args:
        labels: of a sample, where it is known.
    """
    found = []
    for kind, said, chosen, learning in _ways(outline, learns, settings):
        load = Load.of(chosen, outline, labels)
        memory = memory_of(outline, learning, chosen, chosen.workers.num, load)
        found.append({"kind": kind, "set": said, "device_bytes": memory.device_bytes})
    return found


def _ways(
    outline: Outline, learns: Learns, settings: StageSettings
) -> Iterator[tuple[str, str, StageSettings, Learns]]:
    one = settings.model_copy(update={"micro_batch": 1})
    small = "" if settings.micro_batch == 1 else " micro_batch=1"
    for way in (SHARDED, OFFLOADED, ALL_OFFLOADED):
        sharding = Sharding.model_validate(way)
        if sharding != settings.deepspeed:
            said = " ".join(f"deepspeed.{key}={str(value).lower()}" for key, value in way.items())
            yield "sharding", said + small, one.model_copy(update={"deepspeed": sharding}), learns
    third = one.model_copy(update={"deepspeed": Sharding.model_validate(SHARDED)})
    if settings.lora is None and LANGUAGE_MODEL in settings.rates:
        rates = {part: rate for part, rate in settings.rates.items() if part != LANGUAGE_MODEL}
        for said, base in (("", one), (" deepspeed.zero=3", third)):
            chosen = base.model_copy(update={"lora": Lora(), "rates": rates})
            yield (
                "lora",
                f"LoRA as in jobs/finetune_lora.yaml{said}{small}",
                chosen,
                learns_of(outline, chosen),
            )
    times = 2
    while times <= MOST_TIMES and settings.workers.num * times <= settings.global_batch:
        more = settings.workers.model_copy(update={"num": settings.workers.num * times})
        said = f"workers.num={more.num} deepspeed.zero=3{small}"
        yield "workers", said, third.model_copy(update={"workers": more}), learns
        times *= 2
