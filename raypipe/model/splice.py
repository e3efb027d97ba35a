"""Token ids + pixels -> input embeddings, for any mix of images, videos and text.

In training every tower that learns, then the projector, run in each forward pass, on zeros where there is
no medium, and before the words are looked up: all ranks then have the same gradients, ready in the same
order. ZeRO-2 reduces them in buckets in the order in which they get ready, so another order on a rank
without media would add the gradient of one parameter to that of another, without a word.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from raypipe.model.families import Family
from raypipe.records import MediumKind
from raypipe.text.chat import IGNORE


@dataclass
class Batch:
    """A padded batch of rows, each of one sample or, packed, of several.

    ids_BL, segments_BL and labels_BL are [batch, length]; a segment is the number of the sample in its row,
    from 1 on, and 0 at padding. ``pixels`` maps a kind to [N, 3, H, W], the frames of all its media in the
    order in which their placeholders stand in the batch. ``samples`` names the samples of each row.
    """

    ids_BL: torch.Tensor
    segments_BL: torch.Tensor
    labels_BL: torch.Tensor
    pixels: dict[MediumKind, torch.Tensor]
    samples: tuple[tuple[str, ...], ...]

    @property
    def mask_BL(self) -> torch.Tensor:
        """1 where there is a token, 0 at padding."""
        return (self.segments_BL > 0).long()

    @property
    def packed(self) -> bool:
        return any(len(row) > 1 for row in self.samples)

    @property
    def learned(self) -> int:
        return int((self.labels_BL[:, 1:] != IGNORE).sum())

    def owners_BL(self) -> torch.Tensor:
        """The number of the sample that each position belongs to, counted over the batch; -1 at padding."""
        before = torch.tensor([0, *itertools.accumulate(len(row) for row in self.samples)][:-1])
        owners = self.segments_BL - 1 + before.to(self.segments_BL.device).unsqueeze(1)
        return owners.masked_fill(self.segments_BL == 0, -1)


def features(model: Any, family: Family, kind: MediumKind, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """Projected visual tokens [N, tokens, width] of frames [N, 3, H, W]."""
    return model.model.multi_modal_projector(_seen(model, family, kind, pixels_NCHW))


def _seen(model: Any, family: Family, kind: MediumKind, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """What the tower makes of frames, before projection."""
    tower = getattr(model.model, family.towers[kind])
    with torch.set_grad_enabled(torch.is_grad_enabled() and _learns(tower)):
        hidden = tower(pixels_NCHW, output_hidden_states=True).hidden_states
    return family.select(hidden[model.config.vision_feature_layer], kind)


def embed(
    model: Any, family: Family, ids_BL: torch.Tensor, visual: dict[MediumKind, torch.Tensor]
) -> torch.Tensor:
    """Input embeddings [batch, length, width] with the visual tokens in their places.

    Args:
        visual: projected visual tokens [N, tokens, width] by kind, in the order of their placeholders.
    """
    embeds = model.get_input_embeddings()(ids_BL)
    placeholders = family.visual(model.config)
    for kind, tokens in visual.items():
        place = ids_BL == placeholders[kind].token_id
        if int(place.sum()) != tokens.shape[0] * tokens.shape[1]:
            have = tokens.shape[0] * tokens.shape[1]
            raise ValueError(f"{int(place.sum())} {kind} placeholders in the batch for {have} features")
        embeds = embeds.masked_scatter(place.unsqueeze(-1), tokens.to(embeds.dtype))
    return embeds


def whole(model: Any) -> Any:
    """The model itself, out of PEFT's wrapper; its adapters stay in effect."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class LossHead(torch.nn.Module):
    """The module DeepSpeed wraps: a batch in, the summed cross entropy out, and that of each sample.

    Logits are made only where there is a label: of some 2,200 positions of a sample about 100.
    """

    def __init__(self, model: Any, family: Family) -> None:
        super().__init__()
        self.vlm = model
        self._family = family

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        model = whole(self.vlm)
        visual, absent = self._project(model, batch.pixels)
        embeds = embed(model, self._family, batch.ids_BL, visual) + absent
        hidden = model.model.language_model(
            inputs_embeds=embeds, attention_mask=batch.mask_BL, use_cache=False
        ).last_hidden_state
        learned = batch.labels_BL[:, 1:] != IGNORE
        targets = batch.labels_BL[:, 1:][learned]
        logits = model.lm_head(hidden[:, :-1][learned]).float()
        losses = functional.cross_entropy(logits, targets, reduction="none")
        with torch.no_grad():
            each = losses.new_zeros(sum(len(row) for row in batch.samples))
            each.index_add_(0, batch.owners_BL()[:, 1:][learned], losses)
        return losses.sum(), each

    def _project(
        self, model: Any, pixels: dict[MediumKind, torch.Tensor]
    ) -> tuple[dict[MediumKind, torch.Tensor], torch.Tensor | float]:
        """Visual tokens by kind, and a zero that what has no medium in this batch had a part in."""
        side, width = model.config.vision_config.image_size, model.config.vision_config.hidden_size
        number = model.lm_head.weight
        seen: dict[MediumKind, torch.Tensor] = {}
        absent: list[torch.Tensor] = []
        for kind, tower in self._family.towers.items():
            if kind in pixels:
                seen[kind] = _seen(model, self._family, kind, pixels[kind])
            elif _learns(getattr(model.model, tower)):
                frames = self._family.frames(model.config) if kind is MediumKind.VIDEO else 1
                absent.append(_seen(model, self._family, kind, number.new_zeros(frames, 3, side, side)))
        if not seen and not absent:
            absent.append(number.new_zeros(1, 1, width))
        projector = model.model.multi_modal_projector
        visual = {kind: projector(hidden) for kind, hidden in seen.items()}
        return visual, sum(0.0 * projector(hidden).sum() for hidden in absent)


def _learns(module: torch.nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
