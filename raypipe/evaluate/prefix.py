"""Prefixes: the keys and values of what all questions on a medium share, and caches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from raypipe.model.family import Family
from raypipe.model.splice import embed
from raypipe.records import MediumKind

Layer = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Prefix:
    """The prefix of one medium.

    Attributes:
        length: in tokens; 0: nothing is shared.
        layers: of each layer keys and values [heads, length, width].
        visual_TD: the visual tokens that come after the prefix; as a rule none.
    """

    length: int
    layers: tuple[Layer, ...]
    visual_TD: torch.Tensor | None


def prefill(
    model: Any,
    family: Family,
    shared: Sequence[tuple[int, ...]],
    kinds: Sequence[MediumKind | None],
    visual: Sequence[torch.Tensor | None],
) -> list[Prefix]:
    """The prefixes of some media, made together.

    They are padded on the right, so no mask is needed: no token looks at what comes after it.

    Args:
        shared: ids of each prefix.
        visual: visual tokens [tokens, width] of each medium.
    """
    rows, after = [], []
    for ids, kind, tokens in zip(shared, kinds, visual, strict=True):
        row, rest = spliced(model, family, ids, kind, tokens)
        rows.append(row)
        after.append(rest)
    if not any(shared):
        return [Prefix(0, (), rest) for rest in after]
    cache = DynamicCache()
    model.model.language_model(
        inputs_embeds=pad_sequence(rows, batch_first=True), past_key_values=cache, use_cache=True
    )
    made = [(layer.keys, layer.values) for layer in cache.layers]
    return [
        Prefix(len(ids), tuple((k[n, :, : len(ids)], v[n, :, : len(ids)]) for k, v in made), rest)
        for n, (ids, rest) in enumerate(zip(shared, after, strict=True))
    ]


def spliced(
    model: Any,
    family: Family,
    ids: tuple[int, ...],
    kind: MediumKind | None,
    visual_TD: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeddings [length, width] of one row of ids, and the visual tokens that it had no place for."""
    device = model.get_input_embeddings().weight.device
    shown, rest = {}, None
    if kind is not None and visual_TD is not None:
        places = ids.count(family.visual(model.config)[kind].token_id)
        rest = visual_TD[places:] if places < len(visual_TD) else None
        if places:
            shown = {kind: visual_TD[None, :places]}
    return embed(model, family, torch.tensor([ids], dtype=torch.long, device=device), shown)[0], rest


def expanded(prefixes: Sequence[Prefix], room: int) -> Cache:
    """A cache with one row for each of the prefixes, which may repeat, and room for that many more tokens.

    All rows are as long as the longest prefix. What a shorter one leaves open is zeros, to be masked.
    """
    longest = max(prefixes, key=lambda p: p.length)
    if not longest.length:
        return DynamicCache()
    used = longest.length
    edges = [n for n in range(1, len(prefixes)) if prefixes[n] is not prefixes[n - 1]]
    runs = list(pairwise([0, *edges, len(prefixes)]))
    layers = []
    for number, (keys, values) in enumerate(longest.layers):
        pair = []
        for which, like in enumerate((keys, values)):
            heads, _, width = like.shape
            full = like.new_empty(len(prefixes), heads, used + room, width)
            for begin, end in runs:
                prefix = prefixes[begin]
                if prefix.length:
                    full[begin:end, :, : prefix.length] = prefix.layers[number][which]
                full[begin:end, :, prefix.length : used] = 0
            pair.append(full)
        layers.append(RoomyLayer(pair[0], pair[1], used))
    return Cache(layers=layers)


class RoomyLayer(DynamicLayer):
    """A layer of a cache with room ahead: a new token is written into it, and nothing is copied for it."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, used: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._full = (keys, values)
        self._show(used)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Layer:
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        for full, new in zip(self._full, (key_states, value_states), strict=True):
            full[:, :, begin:end] = new
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        used = self.get_seq_length()
        self._full = (self._full[0][indices], self._full[1][indices])
        self._show(used)

    def _show(self, used: int) -> None:
        self.keys, self.values = self._full[0][:, :, :used], self._full[1][:, :, :used]
