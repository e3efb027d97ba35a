"""Tiny random checkpoints in the layouts of the reference's code, every key spelled out here."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch

WIDTH, MLP, LAYERS, HEADS, SIDE, PATCH, FRAMES = 32, 64, 3, 4, 28, 14, 8
TEXT_WIDTH, TEXT_MLP, TEXT_LAYERS, TEXT_HEADS, KEY_HEADS = 48, 96, 2, 4, 2
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": SIDE,
    "patch_size": PATCH,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
WORDS = "what happens in the video clip and then a yellow bar moves to right USER ASSISTANT : ?"
Tensors = dict[str, torch.Tensor]


class Draw:
    """Random weights, wide enough that each of them shows in the result."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, std: float = 0.2) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator) * std


def tower(draw: Draw, *, temporal: bool) -> Tensors:
    """A vision tower's tensors without a prefix."""
    made = {
        "embeddings.class_embedding": draw(WIDTH),
        "embeddings.patch_embedding.weight": draw(WIDTH, 3, PATCH, PATCH, std=0.05),
        "embeddings.position_embedding.weight": draw((SIDE // PATCH) ** 2 + 1, WIDTH),
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    linears = {}
    for n in range(LAYERS):
        layer = f"encoder.layers.{n}."
        norms += [layer + "layer_norm1", layer + "layer_norm2"]
        linears |= {layer + "mlp.fc1": (MLP, WIDTH), layer + "mlp.fc2": (WIDTH, MLP)}
        attentions = ["self_attn"]
        if temporal:
            made[layer + "temporal_embedding"] = draw(1, FRAMES, WIDTH)
            norms.append(layer + "temporal_layer_norm1")
            attentions.append("temporal_attn")
        for attention in attentions:
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linears[f"{layer}{attention}.{name}"] = (WIDTH, WIDTH)
    for name in norms:
        made |= {f"{name}.weight": 1 + draw(WIDTH), f"{name}.bias": draw(WIDTH)}
    for name, (rows, columns) in linears.items():
        made |= {f"{name}.weight": draw(rows, columns), f"{name}.bias": draw(rows)}
    return made


def llama(draw: Draw, vocabulary: int) -> Tensors:
    made = {
        "model.embed_tokens.weight": draw(vocabulary, TEXT_WIDTH),
        "model.norm.weight": 1 + draw(TEXT_WIDTH),
        "lm_head.weight": draw(vocabulary, TEXT_WIDTH),
    }
    keys = TEXT_WIDTH * KEY_HEADS // TEXT_HEADS
    for n in range(TEXT_LAYERS):
        layer = f"model.layers.{n}."
        made |= {
            layer + "input_layernorm.weight": 1 + draw(TEXT_WIDTH),
            layer + "post_attention_layernorm.weight": 1 + draw(TEXT_WIDTH),
            layer + "self_attn.q_proj.weight": draw(TEXT_WIDTH, TEXT_WIDTH),
            layer + "self_attn.k_proj.weight": draw(keys, TEXT_WIDTH),
            layer + "self_attn.v_proj.weight": draw(keys, TEXT_WIDTH),
            layer + "self_attn.o_proj.weight": draw(TEXT_WIDTH, TEXT_WIDTH),
            layer + "mlp.gate_proj.weight": draw(TEXT_MLP, TEXT_WIDTH),
            layer + "mlp.up_proj.weight": draw(TEXT_MLP, TEXT_WIDTH),
            layer + "mlp.down_proj.weight": draw(TEXT_WIDTH, TEXT_MLP),
        }
    return made


def inverse_frequencies() -> Tensors:
    """What transformers 4.31 saves along, although it is no weight."""
    half = TEXT_WIDTH // TEXT_HEADS // 2
    values = 1.0 / (10000.0 ** (torch.arange(half).float() / half))
    return {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": values.clone() for n in range(TEXT_LAYERS)}


def projector(draw: Draw) -> Tensors:
    return {
        "mm_projector.0.weight": draw(TEXT_WIDTH, WIDTH),
        "mm_projector.0.bias": draw(TEXT_WIDTH),
        "mm_projector.2.weight": draw(TEXT_WIDTH, TEXT_WIDTH),
        "mm_projector.2.bias": draw(TEXT_WIDTH),
    }


def lora(draw: Draw, rank: int = 4) -> Tensors:
    made = {}
    for key, tensor in llama(draw, 3).items():
        if key.startswith("model.layers.") and "_proj" in key:
            stem = "base_model.model." + key.removesuffix(".weight")
            made[f"{stem}.lora_A.weight"] = draw(rank, tensor.shape[1])
            made[f"{stem}.lora_B.weight"] = draw(tensor.shape[0], rank)
    return made


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def sentencepiece_file(folder: Path) -> Path:
    """A byte-pair tokenizer trained on the spot with the settings of Llama's."""
    rng = random.Random(7)
    words = WORDS.split()
    texts = folder / "texts.txt"
    texts.write_text("\n".join(" ".join(rng.choice(words) for _ in range(12)) for _ in range(200)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(texts),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=3,
    )
    return folder / "tokenizer.model"


def write_sharded(folder: Path, tensors: Tensors) -> None:
    """Two .bin files and their index, as a large model is saved."""
    keys = list(tensors)
    halves = {"pytorch_model-00001-of-00002.bin": keys[::2], "pytorch_model-00002-of-00002.bin": keys[1::2]}
    for name, mine in halves.items():
        torch.save({key: tensors[key] for key in mine}, folder / name)
    index = {key: name for name, mine in halves.items() for key in mine}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def write_json(file: Path, body: dict) -> None:
    file.write_text(json.dumps(body))


@dataclass
class Originals:
    """A folder in every layout, and their tensors: of the whole checkpoint, of the adapter, and beside it."""

    llm: str
    image: str
    video: str
    whole: str
    stage1: str
    lora: str
    tensors: Tensors
    adapter: Tensors
    beside: Tensors


ADAPTER = {
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.05,
    "bias": "none",
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def llama_body(rows: int) -> dict[str, Any]:
    """config.json of the language model."""
    return {
        "vocab_size": rows,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": TEXT_MLP,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": TEXT_HEADS,
        "num_key_value_heads": KEY_HEADS,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "rope_scaling": None,
    }


def write_originals(root: Path) -> Originals:
    """Folders ``llm``, ``image``, ``video``, ``whole``, ``stage1`` and ``lora`` below a root."""
    for name in ("llm", "image", "video", "whole", "stage1", "lora"):
        (root / name).mkdir()
    draw = Draw(11)
    pieces = sentencepiece_file(root).read_bytes()
    rows = sentencepiece.SentencePieceProcessor(model_proto=pieces).vocab_size()
    text, mapped = llama(draw, rows), projector(draw)
    image, video = tower(draw, temporal=False), tower(draw, temporal=True)
    text_body = llama_body(rows)
    write_json(root / "llm/config.json", {**text_body, "model_type": "llama"})
    write_sharded(root / "llm", {**text, **inverse_frequencies()})
    other = {"text_model.embeddings.token_embedding.weight": draw(9, 5), "text_projection.weight": draw(5, 5)}
    other |= {"visual_projection.weight": draw(16, WIDTH), "logit_scale": torch.tensor(2.6)}
    for kind, weights in (("image", image), ("video", video)):
        vision = dict(VISION) if kind == "image" else {**VISION, "add_time_attn": True, "num_frames": FRAMES}
        body = {"model_type": f"LanguageBind{kind.title()}", "vision_config": vision, "text_config": {}}
        write_json(root / kind / "config.json", body)
        torch.save({**under("vision_model.", weights), **other}, root / kind / "pytorch_model.bin")
    body = {
        **text_body,
        "model_type": "llava",
        "mm_image_tower": str(root / "image"),
        "mm_video_tower": str(root / "video"),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "image_aspect_ratio": "pad",
    }
    whole = {
        **text,
        **under("model.", mapped),
        **under("model.image_tower.image_tower.", image),
        **under("model.video_tower.video_tower.", video),
    }
    write_json(root / "whole/config.json", body)
    write_sharded(root / "whole", {**whole, **inverse_frequencies()})
    write_json(root / "stage1/config.json", {**body, "image_aspect_ratio": "square"})
    torch.save(under("model.", mapped), root / "stage1/mm_projector.bin")
    adapter, beside = lora(draw), under("base_model.model.model.", projector(draw))
    write_json(root / "lora/config.json", body)
    write_json(root / "lora/adapter_config.json", ADAPTER)
    torch.save(adapter, root / "lora/adapter_model.bin")
    torch.save(beside, root / "lora/non_lora_trainables.bin")
    for name in ("llm", "whole"):
        (root / name / "tokenizer.model").write_bytes(pieces)
    folders = {name: str(root / name) for name in ("llm", "image", "video", "whole", "stage1", "lora")}
    return Originals(**folders, tensors=whole, adapter=adapter, beside=beside)
