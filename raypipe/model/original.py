"""The layouts of the reference's own code, read into transformers' classes.

A whole checkpoint (config.json with ``mm_*`` keys, weights under the reference's names), a language model and
vision towers in folders of their own, and a projector alone. What the layouts do not say is taken from where
the reference has it: the towers' shapes from the folders that ``mm_image_tower`` and ``mm_video_tower`` name,
or from LanguageBind's published towers where they are named.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig

from raypipe.errors import RequestError
from raypipe.model.layouts import (
    ADAPTER_FILES,
    NON_LORA,
    PROJECTOR_FILE,
    TOWER_CONFIG,
    Layout,
    body_of,
    layout_of,
    tower_body,
    vision_body,
    weight_files,
)
from raypipe.model.towers import TemporalVisionConfig
from raypipe.model.video_llava import TemporalVideoLlavaForConditionalGeneration, temporal_config
from raypipe.model.weights import Source, empty, fill, put, shapes

LAYERS = {"0.": "linear_1.", "2.": "linear_2."}  # of the projector: the reference's name, and ours
PROJECTOR = "model.multi_modal_projector."
TOWERS = {"image": "model.image_tower.", "video": "model.video_tower."}
OTHER_HALF = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
DERIVED = ("rotary_emb.inv_freq", "embeddings.position_ids")  # made anew, not learned

TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pretraining_tp",
    "tie_word_embeddings",
    "attention_bias",
)
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
_VISION = (*TOWER_CONFIG, "layer_norm_eps", "attention_dropout", "initializer_range", "num_channels")
_FIXED: dict[str, tuple[Any, ...]] = {  # what else the reference can do, and this cannot
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_use_im_start_end": (False, None),
    "mm_use_im_patch_token": (False, None),
    "mm_vision_select_feature": ("patch", None),
}


def load_original(folder: Path, dtype: torch.dtype) -> Any:
    """A whole checkpoint of the reference, held once in memory.

    Raises:
        RequestError: another architecture, unknown towers, or keys unused or missing.
    """
    config = whole_config(folder)
    model = empty(lambda: TemporalVideoLlavaForConditionalGeneration(config))
    _fill(model, [Source(weight_files(folder), _place, str(folder))], dtype)
    return model


def whole_config(folder: Path) -> Any:
    """The configuration of a whole checkpoint of the reference; of its weights only the shapes are read.

    Raises:
        RequestError: no weights, another architecture, or unknown towers.
    """
    body, files = body_of(folder), weight_files(folder)
    if not files:
        raise RequestError(f"{folder} has a config.json and no weights", "fetch its weight files")
    for name, allowed in _FIXED.items():
        if body.get(name, "linear" if name == "mm_projector_type" else None) not in allowed:
            raise RequestError(f"{folder}: {name} is {body.get(name)!r}; raypipe knows {allowed[0]!r} only")
    towers = {kind: tower_body(body, kind, folder) for kind in TOWERS}
    return _config(
        _text_config(body, folder),
        towers["image"],
        towers["video"],
        {k.removeprefix("model.video_tower.video_tower."): s for k, s in shapes(files).items()},
        vision_feature_layer=body.get("mm_vision_select_layer", -2),
        image_tower_name=str(body.get("mm_image_tower")),
        video_tower_name=str(body.get("mm_video_tower")),
    )


def parts_config(language_model: Path, image: Path, video: Path) -> Any:
    """The configuration of a model of these parts; of their weights only the shapes are read.

    Raises:
        RequestError: a part of another kind, or towers that do not go together.
    """
    for folder, layout in (
        (language_model, Layout.LANGUAGE_MODEL),
        (image, Layout.TOWER),
        (video, Layout.TOWER),
    ):
        if layout_of(folder) is not layout:
            raise RequestError(f"{folder} holds {layout_of(folder)}, not {layout}")
    text = _text_config(body_of(language_model), language_model)
    video_shapes = {k.removeprefix("vision_model."): s for k, s in shapes(weight_files(video)).items()}
    return _config(
        text,
        vision_body(image),
        vision_body(video),
        video_shapes,
        image_tower_name=str(image),
        video_tower_name=str(video),
    )


def assemble(
    language_model: Path, image: Path, video: Path, projector: Path | None, seed: int, dtype: torch.dtype
) -> Any:
    """A model of parts in their own layouts: the reference's start of stage 1.

    Args:
        projector: see ``projector_source``; None: fresh weights drawn from ``seed``.

    Raises:
        RequestError: a part of another kind, towers that do not go together, keys unused or missing.
    """
    config = parts_config(language_model, image, video)
    model = empty(lambda: TemporalVideoLlavaForConditionalGeneration(config))
    sources = [
        Source(weight_files(language_model), _place_text, str(language_model)),
        Source(weight_files(image), _place_tower("image"), str(image)),
        Source(weight_files(video), _place_tower("video"), str(video)),
    ]
    if projector is not None:
        sources.append(projector_source(projector))
    _fill(model, sources, dtype, fresh=projector is None)
    if projector is None:
        _fresh_projector(model, seed, dtype)
    return model


def projector_source(path: Path) -> Source:
    """Where a projector is read from: mm_projector.bin or the like, or a model folder that holds one.

    Of a file every key must be of the projector; of a model the others are left out.

    Raises:
        RequestError: there is no projector.
    """
    alone = [path] if path.is_file() else [f for n in (PROJECTOR_FILE, NON_LORA) if (f := path / n).exists()]
    files = alone[:1] or weight_files(path) or weight_files(path, ADAPTER_FILES)
    if not files:
        raise RequestError(f"no projector in {path}", f"name {PROJECTOR_FILE}, its folder, or a model folder")

    def place(key: str) -> str | None:
        return place_projector(key) or (key if alone else None)

    return Source(files, place, f"the projector in {path}")


def with_projector(model: Any, path: Path, dtype: torch.dtype) -> None:
    """Replaces a model's projector.

    Raises:
        RequestError: there is none in ``path``, or it has another shape.
    """
    names = [name for name, _ in model.named_parameters() if name.startswith(PROJECTOR)]
    fill(model, [projector_source(path)], dtype, names)


def place_projector(key: str) -> str | None:
    """The name in the model of a projector's key, under any of the prefixes it is saved with."""
    for mark, layers in (
        ("mm_projector.", LAYERS),
        ("multi_modal_projector.", {v: v for v in LAYERS.values()}),
    ):
        _, found, rest = key.rpartition(mark)
        for theirs, ours in layers.items():
            rest = rest.removeprefix("modules_to_save.").removeprefix("default.")
            if found and rest.startswith(theirs):
                return PROJECTOR + ours + rest.removeprefix(theirs)
    return None


def _place(key: str) -> str | None:
    """Of a key of a whole checkpoint."""
    for kind, prefix in TOWERS.items():
        own = f"model.{kind}_tower.{kind}_tower."
        if key.startswith(own):
            return _derived(key, prefix + key.removeprefix(own).removeprefix("vision_model."))
    if "mm_projector." in key:
        return place_projector(key) or key
    return _place_text(key)


def _place_text(key: str) -> str | None:
    inner = "model.language_model." + key.removeprefix("model.")
    return _derived(key, inner if key.startswith("model.") else key)


def _place_tower(kind: str) -> Callable[[str], str | None]:
    def place(key: str) -> str | None:
        if key.startswith(OTHER_HALF):
            return None
        return _derived(key, TOWERS[kind] + key.removeprefix("vision_model."))

    return place


def _derived(key: str, name: str) -> str | None:
    return None if key.endswith(DERIVED) else name


def _fill(model: Any, sources: list[Source], dtype: torch.dtype, *, fresh: bool = False) -> None:
    """Fills all of a model; words and logits that share one weight are read once."""
    tied = bool(model.config.tie_word_embeddings)
    names = [name for name, _ in model.named_parameters()]
    names = [
        n for n in names if not (fresh and n.startswith(PROJECTOR)) and not (tied and n == "lm_head.weight")
    ]
    if tied:
        sources = [Source(s.files, _without_logits(s.place), s.said) for s in sources]
    fill(model, sources, dtype, names)
    if tied:
        model.lm_head.weight = model.get_input_embeddings().weight


def _without_logits(place: Callable[[str], str | None]) -> Callable[[str], str | None]:
    return lambda key: None if key == "lm_head.weight" else place(key)


def _fresh_projector(model: Any, seed: int, dtype: torch.dtype) -> None:
    """Torch's own first weights of linear layers, as the reference's projector has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in ("linear_1", "linear_2"):
            old = getattr(model.model.multi_modal_projector, layer)
            made = torch.nn.Linear(old.in_features, old.out_features)
            for name, parameter in made.named_parameters():
                put(model, f"{PROJECTOR}{layer}.{name}", parameter.detach(), dtype)


def _text_config(body: dict[str, Any], folder: Path) -> LlamaConfig:
    missing = [name for name in ("vocab_size", "hidden_size", "num_hidden_layers") if name not in body]
    if missing:
        raise RequestError(f"{folder}/config.json does not say {', '.join(missing)}")
    pad = body.get("pad_token_id")
    known = pad if isinstance(pad, int) and 0 <= pad < body["vocab_size"] else None
    values = {name: body[name] for name in (*TEXT_FIELDS, *_ROPE) if body.get(name) is not None}
    try:
        return LlamaConfig(**values, pad_token_id=known)
    except (TypeError, ValueError) as fault:
        raise RequestError(f"{folder}/config.json is not of a Llama: {str(fault)[:200]}") from fault


def _config(
    text: LlamaConfig,
    image: dict[str, Any],
    video: dict[str, Any],
    video_shapes: dict[str, tuple[int, ...]],
    **more: Any,
) -> Any:
    """The whole configuration; whether the video tower attends over time, its weights say."""
    for name in ("hidden_size", "image_size", "patch_size"):
        if image.get(name) != video.get(name):
            raise RequestError(f"the towers differ in {name}: {image.get(name)} and {video.get(name)}")
    over_time = video_shapes.get("encoder.layers.0.temporal_embedding")
    frames = over_time[1] if over_time and len(over_time) == 3 else int(video.get("num_frames") or 8)
    temporal = bool(over_time or video.get("add_time_attn") or video.get("temporal"))
    try:
        return temporal_config(
            text,
            CLIPVisionConfig(**{k: image[k] for k in _VISION if k in image}),
            TemporalVisionConfig(
                **{k: video[k] for k in _VISION if k in video}, num_frames=frames, temporal=temporal
            ),
            **more,
        )
    except (TypeError, ValueError) as fault:
        raise RequestError(f"the towers' configuration is not of a CLIP: {str(fault)[:200]}") from fault
