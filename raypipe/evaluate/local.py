"""The engine in this process: a model on the CPU or on one GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raypipe.evaluate.engine import UNCUT, Reply, Shown, Split, Way
from raypipe.model.build import DTYPES, LoadedModel, load_model
from raypipe.model.splice import embed, features, whole
from raypipe.records import MediumKind


def load_engine(model: str, base: str | None, precision: str, batch: int) -> LocalEngine:
    """An engine for a model folder (see ``load_model``).

    Raises:
        RequestError: the folder holds no model, or not all of one.
    """
    return LocalEngine(load_model(model, base, precision), precision, batch)


@dataclass(frozen=True)
class _Asked:
    prompt: str
    kind: MediumKind | None
    tokens: torch.Tensor | None  # [frames, tokens, width]


class LocalEngine:
    """Generation on this process's device."""

    def __init__(self, loaded: LoadedModel, precision: str, batch: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = DTYPES[precision]
        loaded.model.to(self.device, self.dtype).eval()
        self._loaded, self._model, self._batch = loaded, whole(loaded.model), batch

    @torch.inference_mode()
    def answer(
        self,
        shown: Sequence[Shown],
        way: Way,
        *,
        split: Split = UNCUT,
        on_split: Callable[[Split], None] | None = None,
    ) -> list[list[Reply]]:
        made: list[list[Reply]] = []
        for one in shown:
            try:
                tokens = self._look(one.frames, one.kind, way.aspect) if one.kind else None
                asked = [_Asked(p, one.kind, tokens) for p in one.prompts]
                made.append(self._answer(asked, way.template, way.max_new_tokens))
            except (RuntimeError, ValueError) as fault:
                made.append([Reply("", 0, str(fault)[:300] or type(fault).__name__) for _ in one.prompts])
        return made

    def close(self) -> None:
        pass

    def _look(self, frames: Sequence[bytes], kind: MediumKind, aspect: str) -> torch.Tensor:
        expected = self._loaded.family.frames(self._model.config) if kind is MediumKind.VIDEO else 1
        if len(frames) != expected:
            raise ValueError(f"{len(frames)} frames for a model that takes {expected}")
        look = self._loaded.look(aspect)
        pixels = look.pixels(look.frames(frames, kind), self.dtype, self.device)
        return features(self._model, self._loaded.family, kind, pixels)

    def _answer(self, asked: Sequence[_Asked], template: str, max_new_tokens: int) -> list[Reply]:
        chat = self._loaded.chat(template)
        ids = [chat.prompt(a.prompt, (a.kind,) if a.kind else ()) for a in asked]
        replies: list[Reply | None] = [None] * len(asked)
        by_length = sorted(range(len(asked)), key=lambda i: (len(ids[i]), i))
        for start in range(0, len(asked), self._batch):
            chosen = by_length[start : start + self._batch]
            generated = self._generate([asked[i] for i in chosen], [ids[i] for i in chosen], max_new_tokens)
            for place, tokens in zip(chosen, generated, strict=True):
                replies[place] = Reply(chat.decode(tokens), len(tokens))
        return [r for r in replies if r is not None]

    def _generate(self, asked: list[_Asked], ids: list[tuple[int, ...]], limit: int) -> list[list[int]]:
        length = max(len(i) for i in ids)
        ids_BL = torch.zeros(len(ids), length, dtype=torch.long)
        mask_BL = torch.zeros_like(ids_BL)
        for row, tokens in enumerate(ids):  # padded on the left, so that all answers start together
            ids_BL[row, length - len(tokens) :] = torch.tensor(tokens)
            mask_BL[row, length - len(tokens) :] = 1
        ids_BL, mask_BL = ids_BL.to(self.device), mask_BL.to(self.device)
        visual: dict[MediumKind, torch.Tensor] = {}
        for kind in MediumKind:
            parts = [a.tokens for a in asked if a.kind is kind and a.tokens is not None]
            if parts:
                visual[kind] = torch.cat(parts)
        config: Any = self._model.config.text_config
        end = config.eos_token_id
        out = self._model.generate(
            inputs_embeds=embed(self._model, self._loaded.family, ids_BL, visual),
            attention_mask=mask_BL,
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            eos_token_id=end,
            pad_token_id=config.pad_token_id or 0,
        )
        return [_until(row.tolist(), end) for row in out]


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens
