"""LoRA by PEFT on the language model; what else learns is saved beside the adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from raypipe.errors import RequestError
from raypipe.model.build import LoadedModel, load_model, save_model
from raypipe.settings import Lora


def add_lora(loaded: LoadedModel, lora: Lora, also_learns: list[str], base: str) -> LoadedModel:
    """Wraps a model with fresh adapters.

    Args:
        also_learns: parts trained in full beside the adapters; they are saved with them.
        base: where the weights below come from, recorded in the adapter.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        modules_to_save=also_learns or None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        wrapped = get_peft_model(loaded.model, config)
    except ValueError as fault:
        raise RequestError(
            f"lora.targets matches no module of the model ({str(fault)[:160]})",
            "a regular expression over whole names; the default takes the language model's linear layers",
        ) from fault
    wrapped.peft_config["default"].base_model_name_or_path = base
    return replace(loaded, model=wrapped)


def merge(adapter: str, base: str | None, out: str, layout: str = "hf") -> Path:
    """Merges a LoRA adapter, raypipe's or the reference's, into its base and exports a whole model.

    Args:
        base: None only for a whole model that is put into the original layout.
        layout: "hf", or "original": that of the reference's code.

    Raises:
        RequestError: not an adapter, another layout, or a model that the original layout has no place for.
    """
    if layout not in ("hf", "original"):
        raise RequestError(f"no layout '{layout}'", "layout is hf or original")
    loaded = load_model(adapter, base)
    if hasattr(loaded.model, "merge_and_unload"):
        loaded = replace(loaded, model=loaded.model.merge_and_unload())
    elif layout == "hf":
        raise RequestError(f"{adapter} is not a LoRA adapter", "name the run of a stage with lora:")
    folder = Path(out)
    if layout == "original":
        from raypipe.model.to_original import to_original

        to_original(loaded, folder)
    else:
        save_model(loaded, loaded.card, folder)
    return folder
