"""What a model answers with media between words, by raypipe and written out over the original weights."""

from __future__ import annotations

import torch

from raypipe.model.splice import embed, features, whole
from raypipe.records import MediumKind
from raypipe.settings import StartParts
from tests.model import naive
from tests.support.originals import FRAMES, SIDE, Originals

IMAGE, VIDEO = MediumKind.IMAGE, MediumKind.VIDEO
LORA_SCALE = 8 / 4  # alpha by rank


def parts_of(originals: Originals, **more) -> StartParts:
    names = {"language_model": originals.llm, "image_tower": originals.image, "video_tower": originals.video}
    return StartParts(**{**names, **more})


def pixels(kind: MediumKind, seed: int) -> torch.Tensor:
    frames = FRAMES if kind is VIDEO else 1
    return torch.randn(frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def logits(loaded, kinds=(VIDEO, IMAGE)) -> torch.Tensor:
    """Of one sample with media between words, in double precision."""
    loaded.model.eval().double()
    model, family = whole(loaded.model), loaded.family
    visual = family.visual(model.config)
    ids, shown = [1, 30], {}
    for number, kind in enumerate(kinds):
        ids += [visual[kind].token_id] * visual[kind].count + [40 + number, 50]
        shown[kind] = features(model, family, kind, pixels(kind, number).double())
    ids_BL = torch.tensor([ids])
    with torch.no_grad():
        embeds = embed(model, family, ids_BL, shown)
        return model(inputs_embeds=embeds, attention_mask=torch.ones_like(ids_BL)).logits[0]


def naive_logits(weights, kinds=(VIDEO, IMAGE)) -> torch.Tensor:
    pieces = [[1, 30]]
    for number, kind in enumerate(kinds):
        pieces += [(str(kind), pixels(kind, number).double()), [40 + number, 50]]
    return naive.logits({key: tensor.double() for key, tensor in weights.items()}, pieces)


def with_lora(originals: Originals) -> dict:
    """The whole checkpoint's weights with the adapter added and its projector."""
    weights = dict(originals.tensors)
    for key, low in originals.adapter.items():
        if ".lora_A." in key:
            high = originals.adapter[key.replace(".lora_A.", ".lora_B.")]
            name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            weights[name] = weights[name] + LORA_SCALE * (high @ low)
    return weights | {k.removeprefix("base_model.model."): t for k, t in originals.beside.items()}


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert a.shape == b.shape
    assert float((a - b).abs().max()) < 1e-5
