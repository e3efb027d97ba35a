"""Results in the layout of the reference's own code, so that it can go on with them.

A whole model becomes config.json, weights under the reference's names and mm_projector.bin; a LoRA model its
adapter, non_lora_trainables.bin and config.json. Weights keep their type; nothing is computed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from raypipe.errors import RequestError
from raypipe.model.build import LoadedModel
from raypipe.model.layouts import NON_LORA, PROJECTOR_FILE, TOWER_CONFIG, TOWERS_KEY
from raypipe.model.llama_tokenizer import SPIECE
from raypipe.model.original import LAYERS, PROJECTOR, TEXT_FIELDS, TOWERS
from raypipe.model.video_llava import TemporalVideoLlavaConfig

SHARD_BYTES = 9 * 2**30
_PEFT = "base_model.model."
_TOWER = (*TOWER_CONFIG, "layer_norm_eps")


def to_original(loaded: LoadedModel, out: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes a model, or an adapter with its projector, in the reference's layout.

    Raises:
        RequestError: a model of another family, or one that learned what the layout has no place for.
    """
    adapter = hasattr(loaded.model, "get_base_model")
    config = (loaded.model.get_base_model() if adapter else loaded.model).config
    if config.model_type != TemporalVideoLlavaConfig.model_type:
        raise RequestError(
            f"a model of family {loaded.family.name} has no place in the original layout",
            "only family video_llava is the reference's architecture",
        )
    out.mkdir(parents=True, exist_ok=True)
    dtype = next(loaded.model.parameters()).dtype
    body = _config(config, loaded.card.image_aspect, str(dtype).removeprefix("torch."))
    (out / "config.json").write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if adapter:
        _write_adapter(loaded.model, out)
        return
    named = [(original_name(name), p.detach()) for name, p in loaded.model.named_parameters()]
    _write_shards(named, out, shard_bytes)
    projector = {key: tensor.contiguous() for key, tensor in named if ".mm_projector." in key}
    torch.save(projector, out / PROJECTOR_FILE)
    if loaded.spiece is not None:
        shutil.copyfile(loaded.spiece, out / SPIECE)
    loaded.tokenizer.save(str(out / "tokenizer.json"))


def original_name(name: str) -> str:
    """The reference's name of a parameter.

    Raises:
        RequestError: it has none.
    """
    if name.startswith(PROJECTOR):
        rest = name.removeprefix(PROJECTOR)
        theirs = next(t for t, ours in LAYERS.items() if rest.startswith(ours))
        return f"model.mm_projector.{theirs}{rest.removeprefix(LAYERS[theirs])}"
    for kind, prefix in TOWERS.items():
        if name.startswith(prefix):
            return f"model.{kind}_tower.{kind}_tower.{name.removeprefix(prefix)}"
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    if name.startswith("lm_head."):
        return name
    raise RequestError(f"{name} has no name in the original layout")


def _write_adapter(model: Any, out: Path) -> None:
    """adapter_model.bin, adapter_config.json and non_lora_trainables.bin."""
    from peft import get_peft_model_state_dict

    adapter, beside = {}, {}
    for key, tensor in get_peft_model_state_dict(model).items():
        plain = key.removeprefix(_PEFT)
        kept = tensor.detach().cpu().contiguous()
        if ".lora_" in plain and plain.startswith("model.language_model."):
            adapter[_PEFT + original_name(plain)] = kept
        elif plain.startswith(PROJECTOR):
            beside[_PEFT + original_name(plain)] = kept
        else:
            raise RequestError(
                f"{plain} learned beside the adapter, which the original layout has no place for",
                "write the merged model instead",
            )
    beside = beside or {_PEFT + original_name(name): tensor for name, tensor in _projector_of(model)}
    torch.save(adapter, out / "adapter_model.bin")
    torch.save(beside, out / NON_LORA)
    config = model.peft_config["default"]
    body = {
        "base_model_name_or_path": config.base_model_name_or_path,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.r,
        "revision": None,
        "target_modules": sorted({key.split(".lora_")[0].rpartition(".")[2] for key in adapter}),
        "task_type": "CAUSAL_LM",
    }
    (out / "adapter_config.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def _projector_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The projector of a model whose adapter has none of its own."""
    for name, parameter in model.get_base_model().named_parameters():
        if name.startswith(PROJECTOR):
            yield name, parameter.detach().cpu().contiguous()


def _write_shards(named: Iterable[tuple[str, torch.Tensor]], out: Path, limit: int) -> None:
    """pytorch_model.bin, or numbered files of at most ``limit`` bytes with their index."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    sizes = [0]
    for key, tensor in named:
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and sizes[-1] + size > limit:
            shards.append({})
            sizes.append(0)
        shards[-1][key] = tensor
        sizes[-1] += size
    if len(shards) == 1:
        names = ["pytorch_model.bin"]
    else:
        names = [f"pytorch_model-{n + 1:05d}-of-{len(shards):05d}.bin" for n in range(len(shards))]
        index = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        body = {"metadata": {"total_size": sum(sizes)}, "weight_map": index}
        (out / "pytorch_model.bin.index.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        torch.save({key: tensor.cpu().contiguous() for key, tensor in shard.items()}, out / name)


def _config(config: Any, aspect: str, dtype: str) -> dict[str, Any]:
    """config.json as the reference writes it, and the towers' shapes, which it has elsewhere."""
    text, vision, video = config.text_config, config.vision_config, config.video_config
    rope = dict(text.rope_parameters)
    theta, kind = rope.pop("rope_theta", 10000.0), rope.pop("rope_type", "default")
    scaling = None if kind == "default" else {"type": kind, "factor": rope["factor"]}
    shape = {name: getattr(vision, name) for name in _TOWER}
    over_time = {"num_frames": video.num_frames, "temporal": video.temporal}
    return {
        **{name: getattr(text, name) for name in (*TEXT_FIELDS, "pad_token_id")},
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "rope_theta": theta,
        "rope_scaling": scaling,
        "torch_dtype": dtype,
        "use_cache": True,
        "use_mm_proj": True,
        "mm_hidden_size": vision.hidden_size,
        "mm_image_tower": config.image_tower_name,
        "mm_video_tower": config.video_tower_name,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "image_aspect_ratio": aspect,
        "tokenizer_model_max_length": 3072,
        "tokenizer_padding_side": "right",
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        TOWERS_KEY: {
            "image": shape,
            "video": {**{name: getattr(video, name) for name in _TOWER}, **over_time},
        },
    }
