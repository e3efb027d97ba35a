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

from raypipe.model.family import Family
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

    def positions_BL(self) -> torch.Tensor:
        """The place of each token in its own segment, from 0 on."""
        segments = self.segments_BL
        places = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
        begins = torch.ones_like(segments, dtype=torch.bool)
        begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        return places - torch.where(begins, places, 0).cummax(dim=1).values

    def owners_BL(self) -> torch.Tensor:
        """The number of the sample that each position belongs to, counted over the batch; -1 at padding."""
        before = torch.tensor([0, *itertools.accumulate(len(row) for row in self.samples)][:-1])
        owners = self.segments_BL - 1 + before.to(self.segments_BL.device).unsqueeze(1)
        return owners.masked_fill(self.segments_BL == 0, -1)


def features(model: Any, family: Family, kind: MediumKind, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """Projected visual tokens [n, tokens, width] of frames [N, 3, H, W] of one kind."""
    return family.connect(model, {kind: _seen(model, family, kind, pixels_NCHW)})[0][kind]


def embed(
    model: Any, family: Family, ids_BL: torch.Tensor, visual: dict[MediumKind, torch.Tensor]
) -> torch.Tensor:
    """Input embeddings [batch, length, width] with the visual tokens in their places.

    Args:
        visual: projected visual tokens [n, tokens, width] by kind, in the order of their placeholders.

    Raises:
        ValueError: there are more or fewer visual tokens of a kind than places for them.
    """
    embeds = model.get_input_embeddings()(ids_BL)
    places = {kind: ids_BL == v.token_id for kind, v in family.visual(model.config).items()}
    counts = torch.stack([place.sum() for place in places.values()]).tolist()  # one wait for the device
    for (kind, place), count in zip(places.items(), counts, strict=True):
        tokens = visual.get(kind)
        have = 0 if tokens is None else tokens.shape[0] * tokens.shape[1]
        if count != have:
            raise ValueError(f"{count} {kind} placeholders in the batch for {have} features")
        if tokens is not None:
            embeds = embeds.masked_scatter(place.unsqueeze(-1), tokens.to(embeds.dtype))
    return embeds


def whole(model: Any) -> Any:
    """The model itself, out of PEFT's wrapper; its adapters stay in effect."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class LossHead(torch.nn.Module):
    """The module DeepSpeed wraps: a batch in, the summed cross entropy out, and that of each sample.

    Logits are made only where there is a label: of some 2,200 positions of a sample about 100.

    A tower that does not learn is taken out of the module tree, though the model still has it by its name:
    ZeRO-3 would share out its weights, and ranks with different media, which run different towers, would
    wait for each other forever. ``restore`` puts it back; until then the model's state lacks it.
    """

    def __init__(self, model: Any, family: Family) -> None:
        super().__init__()
        self.vlm = model
        self._family = family
        self._held = [
            held
            for path in dict.fromkeys(family.towers.values())
            if (held := _Held.take(whole(model), path)) is not None
        ]

    def restore(self) -> None:
        """Puts the frozen towers back where they were, for saving; the head is not run after it."""
        while self._held:
            self._held.pop().put_back()

    def _apply(self, fn: Any, recurse: bool = True) -> LossHead:
        for held in self._held:  # device and precision of the towers go with the rest
            held.tower._apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        model = whole(self.vlm)
        visual, absent = self._look(model, batch.pixels, batch.ids_BL.device)
        embeds = embed(model, self._family, batch.ids_BL, visual)
        if absent is not None:
            embeds = embeds + absent.to(embeds.dtype)
        # Without a mask transformers takes positions that start again for the begin of another sequence.
        where = {"position_ids": batch.positions_BL()} if batch.packed else {"attention_mask": batch.mask_BL}
        hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False, **where).last_hidden_state
        learned = batch.labels_BL[:, 1:] != IGNORE
        targets = batch.labels_BL[:, 1:][learned]
        logits = model.lm_head(hidden[:, :-1][learned]).float()
        losses = functional.cross_entropy(logits, targets, reduction="none")
        with torch.no_grad():
            each = losses.new_zeros(sum(len(row) for row in batch.samples))
            each.index_add_(0, batch.owners_BL()[:, 1:][learned], losses)
        return losses.sum(), each

    def _look(
        self, model: Any, pixels: dict[MediumKind, torch.Tensor], device: torch.device
    ) -> tuple[dict[MediumKind, torch.Tensor], torch.Tensor | None]:
        """Visual tokens by kind; and a zero that what has no medium in this batch had a part in."""
        family, hidden, missing = self._family, {}, []
        for kind, path in family.towers.items():
            shown = pixels.get(kind)
            if shown is None:
                if not _learns(model.get_submodule(path)):
                    continue
                missing.append(kind)
                shown = self._blank(model, kind, device)
            hidden[kind] = _seen(model, family, kind, shown)
        tokens, row = family.connect(model, hidden)
        if hidden and not missing:
            return tokens, None
        parts = [row, *(tokens.pop(kind) for kind in missing)]
        return tokens, 0.0 * torch.stack([part.float().sum() for part in parts]).sum()

    def _blank(self, model: Any, kind: MediumKind, device: torch.device) -> torch.Tensor:
        """One medium of zeros."""
        side = self._family.side(model.config)
        count = self._family.frames(model.config) if kind is MediumKind.VIDEO else 1
        return torch.zeros(count, 3, side, side, dtype=next(model.parameters()).dtype, device=device)


@dataclass
class _Held:
    """A tower out of the module tree, and the place it had there."""

    parent: torch.nn.Module
    name: str
    order: list[str]
    tower: torch.nn.Module

    @classmethod
    def take(cls, model: Any, path: str) -> _Held | None:
        """Takes the tower at a path out; None where it learns, or is out already."""
        above, _, name = path.rpartition(".")
        parent = model.get_submodule(above)
        tower = parent._modules.get(name)
        if tower is None or _learns(tower):
            return None
        held = cls(parent, name, list(parent._modules), tower)
        del parent._modules[name]
        parent.__dict__[name] = tower
        return held

    def put_back(self) -> None:
        del self.parent.__dict__[self.name]
        modules = {**self.parent._modules, self.name: self.tower}
        self.parent._modules.clear()
        self.parent._modules.update({name: modules[name] for name in self.order})


def _seen(model: Any, family: Family, kind: MediumKind, pixels_NCHW: torch.Tensor) -> torch.Tensor:
    """What the tower makes of frames, before projection."""
    tower = model.get_submodule(family.towers[kind])
    with torch.set_grad_enabled(torch.is_grad_enabled() and _learns(tower)):
        return family.see(tower, pixels_NCHW, kind, model.config)


def _learns(module: torch.nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
