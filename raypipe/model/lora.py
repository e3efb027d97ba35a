"""LoRA by PEFT on the language model; what else learns is saved beside the adapter."""

from __future__ import annotations

from pathlib import Path

from raypipe.errors import RequestError
from raypipe.model.build import Card, LoadedModel, load_model, save_model
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
        raise RequestError(f"lora.targets matches no module of the model ({str(fault)[:160]})") from fault
    wrapped.peft_config["default"].base_model_name_or_path = base
    return LoadedModel(wrapped, loaded.family, loaded.tokenizer, loaded.card, loaded.folder)


def merge(adapter: str, base: str, out: str) -> Path:
    """Merges a LoRA adapter into its base and exports a whole model."""
    loaded = load_model(adapter, base)
    if not hasattr(loaded.model, "merge_and_unload"):
        raise RequestError(f"{adapter} is not a LoRA adapter")
    merged = loaded.model.merge_and_unload()
    folder = Path(out)
    card: Card = loaded.card
    save_model(LoadedModel(merged, loaded.family, loaded.tokenizer, card), card, folder)
    return folder
