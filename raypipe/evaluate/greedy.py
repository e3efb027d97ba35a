"""Greedy answers of a batch of questions over prefixes that are there already."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from raypipe.evaluate.prefix import Prefix, expanded, spliced
from raypipe.model.family import Family
from raypipe.records import MediumKind


@dataclass(frozen=True)
class Row:
    """One question: what of its prompt comes after the prefix, the prefix, and the answer's most tokens."""

    ids: tuple[int, ...]
    kind: MediumKind | None
    prefix: Prefix
    limit: int


def greedy(model: Any, family: Family, rows: Sequence[Row], ends: Collection[int]) -> list[list[int]]:
    """The ids of each answer, without the one that ends it, at most its row's ``limit``.

    The rest of the prompts is padded on the right, and each row counts its own positions, so an answer does
    not depend on what else is in the batch but for rounding. Rows that have ended are taken out once they are
    half of the batch.
    """
    device = model.get_input_embeddings().weight.device
    longest = max(r.prefix.length for r in rows)
    asked, limit = max(len(r.ids) for r in rows), max(r.limit for r in rows)
    mask_BK = torch.ones(len(rows), longest + asked + limit, dtype=torch.bool)
    for number, row in enumerate(rows):
        mask_BK[number, row.prefix.length : longest] = False
        mask_BK[number, longest + len(row.ids) : longest + asked] = False
    whole = bool(mask_BK.all())  # without a gap the attention takes a faster way
    mask_BK = mask_BK.to(device)
    begin_B = torch.tensor([r.prefix.length for r in rows], device=device)
    last_B = torch.tensor([len(r.ids) - 1 for r in rows], device=device)
    cache = expanded([r.prefix for r in rows], asked + limit)
    embeds = _embedded(model, family, rows, device)
    positions_BS = begin_B[:, None] + torch.arange(asked, device=device)
    used = longest + asked
    hidden = _forward(model, embeds, None if whole else mask_BK[:, :used], positions_BS, cache)
    hidden_BD = hidden[torch.arange(len(rows), device=device), last_B]
    next_B = begin_B + last_B + 1
    made: list[list[int]] = [[] for _ in rows]
    alive = list(range(len(rows)))  # the question that each row of the tensors is of
    going = set(alive)
    while True:
        tokens_B = model.lm_head(hidden_BD).float().argmax(-1)
        for place, token in zip(alive, tokens_B.tolist(), strict=True):
            if place not in going:
                continue
            if token not in ends:
                made[place].append(token)
            if token in ends or len(made[place]) == rows[place].limit:
                going.remove(place)
        if not going:
            return made
        if 2 * len(going) <= len(alive):
            kept = torch.tensor([n for n, place in enumerate(alive) if place in going], device=device)
            cache.batch_select_indices(kept)
            tokens_B, next_B, mask_BK = tokens_B[kept], next_B[kept], mask_BK[kept]
            alive = [place for place in alive if place in going]
        used += 1
        embeds = model.get_input_embeddings()(tokens_B[:, None])
        mask = None if whole else mask_BK[:, :used]
        hidden_BD = _forward(model, embeds, mask, next_B[:, None], cache)[:, -1]
        next_B = next_B + 1


def _embedded(model: Any, family: Family, rows: Sequence[Row], device: torch.device) -> torch.Tensor:
    """The rest of the prompts [rows, longest, width], padded on the right."""
    if any(r.prefix.visual_TD is not None for r in rows):
        each = [spliced(model, family, r.ids, r.kind, r.prefix.visual_TD)[0] for r in rows]
        return pad_sequence(each, batch_first=True)
    ids_BS = pad_sequence([torch.tensor(r.ids, dtype=torch.long) for r in rows], batch_first=True)
    return model.get_input_embeddings()(ids_BS.to(device))


def _forward(
    model: Any, embeds_BSD: torch.Tensor, mask_BK: torch.Tensor | None, positions_BS: torch.Tensor, cache: Any
) -> torch.Tensor:
    out = model.model.language_model(
        inputs_embeds=embeds_BSD,
        attention_mask=mask_BK,
        position_ids=positions_BS,
        past_key_values=cache,
        use_cache=True,
    )
    return out.last_hidden_state
