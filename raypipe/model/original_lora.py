"""LoRA results: the reference's (adapter and non_lora_trainables.bin) and raypipe's, over their base.

The reference's adapter targets the language model under its own names, and its projector lies beside in a
file of its own. Both become what raypipe trains: one PEFT model with the projector among the saved modules.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from raypipe.errors import RequestError
from raypipe.model.layouts import ADAPTER_FILES, NON_LORA, weight_files
from raypipe.model.original import place_projector
from raypipe.model.weights import shapes, tensors

SAVED = "multi_modal_projector"
_LAYER = re.compile(r"^base_model\.model\.model\.(layers\..+\.(\w+))\.(lora_[AB])(?:\.default)?\.weight$")


def load_ours(folder: Path, below: Any, *, trainable: bool) -> Any:
    """raypipe's own adapter over its base, unmerged."""
    return PeftModel.from_pretrained(below, folder, is_trainable=trainable)


def load(folder: Path, below: Any, *, trainable: bool) -> Any:
    """The reference's adapter and projector over their base, unmerged.

    Raises:
        RequestError: keys unused or missing, or settings that are not of plain LoRA.
    """
    adapter, beside = weight_files(folder, ADAPTER_FILES), folder / NON_LORA
    if not beside.exists():
        raise RequestError(f"{folder} has no {NON_LORA}: its projector is missing", "fetch that file too")
    places = {key: _LAYER.match(key) for key in shapes(adapter)}
    odd = [key for key, found in places.items() if not found]
    odd += [key for key in shapes([beside]) if not place_projector(key)]
    if odd:
        raise RequestError(f"{folder}: {len(odd)} keys have no place in the model ({', '.join(odd[:4])})")
    targets = sorted({found[2] for found in places.values() if found})
    model = get_peft_model(below, _config(folder, targets))
    wanted = {
        name: p for name, p in model.named_parameters() if "lora_" in name or ".modules_to_save." in name
    }
    filled = {_ours(key): tensor for key, tensor in tensors([*adapter, beside])}
    missing, unused = sorted(set(wanted) - set(filled)), sorted(set(filled) - set(wanted))
    if missing or unused:
        said, names = ("are missing", missing) if missing else ("have no place in the model", unused)
        raise RequestError(f"{folder}: {len(names)} weights {said} ({', '.join(names[:4])})")
    with torch.no_grad():
        for name, tensor in filled.items():
            if wanted[name].shape != tensor.shape:
                is_, not_ = list(tensor.shape), list(wanted[name].shape)
                raise RequestError(f"{folder}: {name} is {is_} and not {not_}", "is it over the right base?")
            wanted[name].copy_(tensor)
    if not trainable:
        model.requires_grad_(False)
    return model


def _ours(key: str) -> str:
    """The name in the PEFT model of a key of the reference."""
    projector = place_projector(key)
    if projector is not None:
        head, _, rest = projector.partition(f"{SAVED}.")
        return f"base_model.model.{head}{SAVED}.modules_to_save.default.{rest}"
    found = _LAYER.match(key)
    assert found is not None  # noqa: S101 - load has looked at every key
    return f"base_model.model.model.language_model.{found[1]}.{found[3]}.default.weight"


def _config(folder: Path, targets: list[str]) -> LoraConfig:
    try:
        body = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        rank, alpha, dropout = int(body["r"]), body["lora_alpha"], float(body.get("lora_dropout", 0.0))
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise RequestError(f"{folder}/adapter_config.json cannot be read: {fault}") from fault
    if body.get("bias", "none") != "none" or body.get("use_dora") or body.get("use_rslora"):
        raise RequestError(f"{folder} is not plain LoRA", "merge it with the code that made it")
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=rf".*language_model.*\.({'|'.join(targets)})",
        modules_to_save=[SAVED],
        bias="none",
        task_type="CAUSAL_LM",
    )
