"""Video-LLaVA written out in plain torch over the keys of its original checkpoint, one sample at a time."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.support import originals as shape

Weights = dict[str, torch.Tensor]


def linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def attention(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    """Over the last but one axis of [..., length, width]."""
    size = shape.WIDTH // shape.HEADS
    q, k, v = (linear(w, f"{name}.{p}_proj", x) for p in "qkv")
    heads = []
    for h in range(shape.HEADS):
        part = slice(h * size, (h + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / size**0.5
        heads.append(scores.softmax(-1) @ v[..., part])
    return linear(w, f"{name}.out_proj", torch.cat(heads, -1))


def tower(w: Weights, frames_TCHW: torch.Tensor, layers: int, *, temporal: bool) -> torch.Tensor:
    """Hidden state [frames, tokens, width] after so many layers; the frames are those of one clip."""
    rows = []
    for frame in frames_TCHW:
        grid = F.conv2d(frame[None], w["embeddings.patch_embedding.weight"], stride=shape.PATCH)[0]
        patches = torch.stack([grid[:, y, x] for y in range(grid.shape[1]) for x in range(grid.shape[2])])
        rows.append(torch.cat([w["embeddings.class_embedding"][None], patches]))
    x = norm(w, "pre_layrnorm", torch.stack(rows) + w["embeddings.position_embedding.weight"])
    for n in range(layers):
        name = f"encoder.layers.{n}"
        if temporal:
            over_time = x.transpose(0, 1)  # [tokens, frames, width]
            if len(frames_TCHW) > 1:
                over_time = over_time + w[f"{name}.temporal_embedding"]
            seen = norm(w, f"{name}.temporal_layer_norm1", over_time)
            x = (over_time + attention(w, f"{name}.temporal_attn", seen)).transpose(0, 1)
        x = x + attention(w, f"{name}.self_attn", norm(w, f"{name}.layer_norm1", x))
        inner = F.gelu(linear(w, f"{name}.mlp.fc1", norm(w, f"{name}.layer_norm2", x)))
        x = x + linear(w, f"{name}.mlp.fc2", inner)
    return x


def visual(w: Weights, frames_TCHW: torch.Tensor, kind: str) -> torch.Tensor:
    """Projected tokens of one image or clip, flat."""
    prefix = f"model.{kind}_tower.{kind}_tower."
    mine = {key.removeprefix(prefix): t for key, t in w.items() if key.startswith(prefix)}
    x = tower(mine, frames_TCHW, shape.LAYERS - 1, temporal=kind == "video")
    x = x[:, 1:] if kind == "image" else x
    hidden = F.gelu(linear(w, "model.mm_projector.0", x.flatten(0, 1)))
    return linear(w, "model.mm_projector.2", hidden)


def rms(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def turned(x_LD: torch.Tensor) -> torch.Tensor:
    """Rotary positions on one head [length, size]."""
    half = x_LD.shape[1] // 2
    rates = 1.0 / (10000.0 ** (torch.arange(half, dtype=x_LD.dtype) / half))
    angles = torch.arange(len(x_LD), dtype=x_LD.dtype)[:, None] * rates
    a, b = x_LD[:, :half], x_LD[:, half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def llama(w: Weights, x: torch.Tensor) -> torch.Tensor:
    """Logits [length, vocabulary] of embeddings [length, width]."""
    size = shape.TEXT_WIDTH // shape.TEXT_HEADS
    later = torch.ones(len(x), len(x)).triu(1).bool()
    for n in range(shape.TEXT_LAYERS):
        name = f"model.layers.{n}"
        seen = rms(w[f"{name}.input_layernorm.weight"], x)
        q, k, v = (linear(w, f"{name}.self_attn.{p}_proj", seen) for p in "qkv")
        heads = []
        for h in range(shape.TEXT_HEADS):
            g = h * shape.KEY_HEADS // shape.TEXT_HEADS
            mine, shared = slice(h * size, (h + 1) * size), slice(g * size, (g + 1) * size)
            scores = turned(q[:, mine]) @ turned(k[:, shared]).T / size**0.5
            heads.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ v[:, shared])
        x = x + linear(w, f"{name}.self_attn.o_proj", torch.cat(heads, -1))
        seen = rms(w[f"{name}.post_attention_layernorm.weight"], x)
        inner = F.silu(linear(w, f"{name}.mlp.gate_proj", seen)) * linear(w, f"{name}.mlp.up_proj", seen)
        x = x + linear(w, f"{name}.mlp.down_proj", inner)
    return linear(w, "lm_head", rms(w["model.norm.weight"], x))


def logits(w: Weights, pieces: list[list[int] | tuple[str, torch.Tensor]]) -> torch.Tensor:
    """Of one sample given as runs of token ids and (kind, frames) in their order."""
    rows = []
    for piece in pieces:
        if isinstance(piece, list):
            rows.append(w["model.embed_tokens.weight"][piece])
        else:
            rows.append(visual(w, piece[1], piece[0]))
    return llama(w, torch.cat(rows))
