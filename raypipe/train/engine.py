"""DeepSpeed: the engine around a model, and its settings."""

from __future__ import annotations

import math
import os
from typing import Any

import torch

from raypipe.errors import RequestError
from raypipe.model.build import DTYPES, LoadedModel
from raypipe.model.families import Family
from raypipe.model.splice import LossHead
from raypipe.settings import StageSettings, expanded
from raypipe.train.state import name_trained


def prepare_environment(gpus: float) -> None:
    """What DeepSpeed must find before it is imported.

    Raises:
        RequestError: nobody says where the home folder is, for what DeepSpeed compiles.
    """
    if gpus == 0:
        os.environ["DS_ACCELERATOR"] = "cpu"
    if "TORCH_EXTENSIONS_DIR" not in os.environ:
        os.environ["TORCH_EXTENSIONS_DIR"] = str(expanded("~/.cache/raypipe/torch_extensions"))


def parameter_groups(loaded: LoadedModel, settings: StageSettings) -> list[dict[str, Any]]:
    """Freezes what has no rate and groups the rest by rate.

    Each group keeps its peak rate under ``peak``; biases and vectors get no weight decay.

    Raises:
        RequestError: an unknown part, or nothing left to learn.
    """
    rates, family = settings.rates, loaded.family
    family.check_parts(list(rates))
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in loaded.model.named_parameters():
        rate = _rate_of(name, settings, family)
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            decay = settings.optimizer.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    if not groups:
        raise RequestError(
            "nothing learns: no part has a rate", f"set rates.PART=...: {', '.join(family.parts)}"
        )
    return [
        {"params": params, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def start_engine(loaded: LoadedModel, settings: StageSettings) -> Any:
    """The DeepSpeed engine over the loss head; torch.distributed must be up."""
    import deepspeed

    if not torch.cuda.is_available():
        # The shared-memory operator is compiled at first use, for minutes; gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    groups = parameter_groups(loaded, settings)
    chosen = settings.optimizer
    # Fused: one pass over a flat group of billions of numbers, and no temporaries of its size.
    optimizer = torch.optim.AdamW(groups, betas=chosen.betas, eps=chosen.eps, fused=True)
    if settings.gradient_checkpointing:
        loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    head = LossHead(loaded.model, loaded.family)
    engine, *_ = deepspeed.initialize(
        model=head,
        optimizer=optimizer,
        config=_config(settings, int(loaded.config.get_text_config().hidden_size)),
        dist_init_required=False,
        model_parameters=None,
    )
    name_trained(engine, loaded.model)
    return engine


def _config(settings: StageSettings, hidden: int) -> dict[str, Any]:
    rows = math.ceil(settings.global_batch / torch.distributed.get_world_size())
    low, on_gpu = settings.precision == "bf16", torch.cuda.is_available()
    # Gradients are summed over micro-batches in fp32; a sum of one needs no more bits than it has.
    sums = {"data_types": {"grad_accum_dtype": "fp32"}} if low and rows > settings.micro_batch else {}
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": 1,  # the loop says itself where a step ends
        "gradient_clipping": settings.optimizer.clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # offload works with torch's AdamW too
        "bf16": {"enabled": low},
        "steps_per_print": 10**9,
        "zero_optimization": {
            "stage": settings.deepspeed.zero,
            "contiguous_gradients": True,
            "overlap_comm": on_gpu,
            **(_zero_3(hidden) if settings.deepspeed.zero == 3 else {}),
            **_offload("offload_optimizer", settings.deepspeed.offload_optimizer),
            **_offload("offload_param", settings.deepspeed.offload_parameters),
        },
        **sums,
    }


def _zero_3(hidden: int) -> dict[str, int]:
    """Buckets of the size of one layer's matrices; vectors stay whole on every rank."""
    return {
        "reduce_bucket_size": hidden * hidden,
        "stage3_prefetch_bucket_size": 9 * hidden * hidden // 10,
        "stage3_param_persistence_threshold": 10 * hidden,
    }


def _offload(name: str, wanted: bool) -> dict[str, Any]:
    return {name: {"device": "cpu", "pin_memory": torch.cuda.is_available()}} if wanted else {}


def set_rates(engine: Any, factor: float) -> float:
    """Sets the rate of every group to its peak times a factor; returns the highest."""
    for group in engine.basic_optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return max(float(g["lr"]) for g in engine.basic_optimizer.param_groups)


def micro_batch(engine: Any, *, last: bool) -> None:
    """Says, before the forward pass, whether this micro-batch ends its step."""
    engine.set_gradient_accumulation_boundary(is_boundary=last)


def backward(engine: Any, loss: torch.Tensor) -> None:
    """Back-propagates one micro-batch; after the last of a step the optimizer steps.

    The gradient of a step is the sum over its micro-batches, the mean over the ranks.
    """
    engine.backward(loss)
    engine.step()


def precision_of(settings: StageSettings) -> torch.dtype:
    return DTYPES[settings.precision]


def part_of(name: str, family: Family) -> str:
    """The part of the model that a trained parameter belongs to, inside PEFT's wrapper or not."""
    plain = name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
    return family.part_of(plain.replace(".base_layer.", "."))


def _rate_of(name: str, settings: StageSettings, family: Family) -> float:
    if settings.lora and "lora_" in name:
        return settings.lora.rate
    if settings.lora and "original_module" in name:
        return 0.0  # PEFT's untouched copy of a part that is trained beside the adapter
    part = part_of(name, family)
    if settings.lora and part == "language_model":
        return 0.0
    return settings.rates.get(part, 0.0)
