"""DeepSpeed: the engine around a model, its settings, its checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from raypipe.errors import RequestError
from raypipe.model.build import DTYPES, LoadedModel
from raypipe.model.splice import LossHead
from raypipe.settings import StageSettings

TAG = "state"


def prepare_environment(gpus: float) -> None:
    """What DeepSpeed must find before it is imported."""
    if gpus == 0:
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault(
        "TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache" / "raypipe" / "torch_extensions")
    )


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
    optimizer = torch.optim.AdamW(groups, betas=chosen.betas, eps=chosen.eps)
    if settings.gradient_checkpointing:
        loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
    config = {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": 1,  # the loop says itself where a step ends
        "gradient_clipping": chosen.clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # offload works with torch's AdamW too
        "bf16": {"enabled": settings.precision == "bf16"},
        "steps_per_print": 10**9,
        "zero_optimization": {
            "stage": settings.deepspeed.zero,
            "contiguous_gradients": True,
            "overlap_comm": torch.cuda.is_available(),
            **({"offload_optimizer": {"device": "cpu"}} if settings.deepspeed.offload_optimizer else {}),
        },
    }
    head = LossHead(loaded.model, loaded.family)
    engine, *_ = deepspeed.initialize(
        model=head, optimizer=optimizer, config=config, dist_init_required=False, model_parameters=None
    )
    return engine


def set_rates(engine: Any, factor: float) -> float:
    """Sets the rate of every group to its peak times a factor; returns the highest."""
    for group in engine.optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return max(float(g["lr"]) for g in engine.optimizer.param_groups)


def backward(engine: Any, loss: torch.Tensor, *, last: bool) -> None:
    """Back-propagates one micro-batch; after the last of a step the optimizer steps."""
    engine.set_gradient_accumulation_boundary(is_boundary=last)
    engine.backward(loss)
    engine.step()


def save_state(engine: Any, folder: Path, position: dict[str, Any]) -> None:
    """This rank's part of a checkpoint: what learns, the optimizer's state, the position."""
    engine.save_checkpoint(str(folder), tag=TAG, client_state=position, exclude_frozen_parameters=True)


def load_state(engine: Any, folder: Path) -> dict[str, Any]:
    """Restores a checkpoint of the same number of workers; returns its position.

    Raises:
        RequestError: it was written by another number of workers.
    """
    try:
        path, position = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    except Exception as fault:
        if "world size" in str(fault) or "DP" in str(fault):
            raise RequestError(
                f"the checkpoint in {folder} was written by another number of workers",
                "set workers.num as it was",
            ) from fault
        raise
    if path is None:
        raise RequestError(f"no checkpoint of this stage in {folder}")
    return position


def precision_of(settings: StageSettings) -> torch.dtype:
    return DTYPES[settings.precision]


def _rate_of(name: str, settings: StageSettings, family: Any) -> float:
    if settings.lora and "lora_" in name:
        return settings.lora.rate
    plain = name.removeprefix("base_model.model.")
    if settings.lora:
        if "original_module" in plain:
            return 0.0  # PEFT's untouched copy of a part that is trained beside the adapter
        plain = plain.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
    part = family.part_of(plain)
    if settings.lora and part == "language_model":
        return 0.0
    return settings.rates.get(part, 0.0)
