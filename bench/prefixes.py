"""Shared prefixes against the reference's way, and raypipe's engine against bare calls of ``generate``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from bench.asked import Videos, small_model, videos
from bench.figure import Figure, figure
from bench.pairs import paired
from raypipe.evaluate.local import LocalEngine
from raypipe.evaluate.read import Reader
from raypipe.evaluate.work import Answerer
from raypipe.media.decode import decode
from raypipe.model.build import LoadedModel
from raypipe.model.splice import embed, features
from raypipe.records import Medium, MediumKind, Question
from raypipe.settings import DecodeLimits
from raypipe.store.files import Store

VIDEO = MediumKind.VIDEO


def prefix(pairs: int) -> Iterator[Figure]:
    """Ten questions a video from files to committed answers; seconds of the wall, one core."""
    torch.set_num_threads(1)
    asked, loaded = videos(2), small_model()
    with TemporaryDirectory(prefix="raypipe-bench-") as folder:
        ours, theirs = Ours(asked, loaded, Path(folder)), Reference(asked, loaded)
        ratio = paired(ours, theirs, pairs, time.perf_counter)
        count = sum(len(g.questions) for g in asked.unit.groups)
        equal = sum(ours.answers[name] == text for name, text in theirs.answers.items())
        yield figure(
            "prefix",
            f"raypipe: {asked.count} videos of 976 tokens, 10 questions each, files to committed answers",
            "the reference's way: each question decodes, encodes and prefills; batch one, plain generate",
            ratio,
            0.2,
            questions_s=round(count / ratio.wall_a_s, 2),
            peer_questions_s=round(count / ratio.wall_b_s, 2),
            speedup=round(1 / ratio.median, 2),
            answers_equal=equal,
            answers=count,
            decodes=ours.decodes,
            peer_decodes=theirs.decodes,
            note=f"{equal} of {count} answers are equal; a round decodes {ours.decodes} times, "
            f"the reference's way {theirs.decodes} times",
        )


def overhead(pairs: int) -> Iterator[Figure]:
    """The same questions on decoded media: unit in, committed answers out, against bare generate calls."""
    torch.set_num_threads(1)
    asked, loaded = videos(2), small_model()
    with TemporaryDirectory(prefix="raypipe-bench-") as folder:
        ours = Ours(asked, loaded, Path(folder))
        ours.media = ours.read()
        bare = Bare(asked, loaded, ours.media)
        ratio = paired(ours.answer, bare, pairs, time.perf_counter)
        equal = sum(ours.answers[name] == text for name, text in bare.answers.items())
        yield figure(
            "overhead",
            "raypipe's engine from stored frames to committed answers, 2 videos with 10 questions on each",
            "bare calls: features, one prefill a video, the cache repeated, transformers' generate on it",
            ratio,
            1.1,
            answers_equal=equal,
            answers=len(bare.answers),
            note=f"{equal} of {len(bare.answers)} answers are equal",
        )


class Ours:
    """raypipe's way, each round into a run of its own."""

    def __init__(self, asked: Videos, loaded: LoadedModel, folder: Path) -> None:
        self._asked, self._folder, self._round = asked, folder, 0
        self._engine = LocalEngine(loaded, "fp32", 16)
        self.answers: dict[str, str] = {}
        self.decodes = 0
        self.media: dict[str, Any] = {}

    def __call__(self) -> None:
        self.media = self.read()
        self.answer()

    def read(self) -> dict[str, Any]:
        self._round += 1
        reader = Reader(self._store(), str(self._asked.root), DecodeLimits())
        media = reader(self._asked.unit)
        self.decodes = sum(isinstance(m, Medium) for m in media.values())
        return media

    def answer(self) -> None:
        self._round += 1
        made = Answerer(self._engine, self._store())(self._asked.unit, self.media)
        self.answers = {p.question_id: p.text for p in made}

    def _store(self) -> Store:
        return Store(str(self._folder / str(self._round)))


class Reference:
    """Question by question, as the reference's evaluation scripts go."""

    def __init__(self, asked: Videos, loaded: LoadedModel) -> None:
        self._asked, self._loaded = asked, loaded
        self._reader = Reader(Store("/nonexistent"), str(asked.root), DecodeLimits())
        self.answers: dict[str, str] = {}
        self.decodes = 0

    @torch.inference_mode()
    def __call__(self) -> None:
        self.decodes = 0
        requests = dict(self._reader._requests(self._asked.unit))
        for place, group in enumerate(self._asked.unit.groups):
            for question in group.questions:
                medium = decode(requests[place])
                self.decodes += 1
                self.answers[question.id] = self._answer(question, medium)

    def _answer(self, question: Question, medium: Medium) -> str:
        loaded, asking = self._loaded, self._asked.unit.asking
        chat, look = loaded.chat(asking.template), loaded.look(asking.aspect)
        ids = torch.tensor([chat.prompt(question.prompt, (VIDEO,))])
        pixels = look.pixels(look.frames(medium.frames, VIDEO))
        out = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=pixels[None],
            max_new_tokens=asking.max_new_tokens,
            do_sample=False,
        )
        return chat.decode(out[0, ids.shape[1] :].tolist())


class Bare:
    """What the shared prefix costs with nothing around it: per video one prefill and one call of generate."""

    def __init__(self, asked: Videos, loaded: LoadedModel, media: dict[str, Any]) -> None:
        self._asked, self._loaded, self._media = asked, loaded, media
        self.answers: dict[str, str] = {}

    @torch.inference_mode()
    def __call__(self) -> None:
        for group in self._asked.unit.groups:
            assert group.medium is not None  # noqa: S101 - they are all about videos
            self._answer(group.questions, self._media[group.medium.path])

    def _answer(self, questions: tuple[Question, ...], medium: Medium) -> None:
        loaded, asking = self._loaded, self._asked.unit.asking
        model, chat, look = loaded.model, loaded.chat(asking.template), loaded.look(asking.aspect)
        prompts = [chat.prompt(q.prompt, (VIDEO,)) for q in questions]
        visual = chat.visual[VIDEO]
        shared = prompts[0].index(visual.token_id) + visual.count
        tokens = features(model, loaded.family, VIDEO, look.pixels(look.frames(medium.frames, VIDEO)))
        embeds = embed(model, loaded.family, torch.tensor([prompts[0][:shared]]), {VIDEO: tokens})
        cache = DynamicCache()
        model.model.language_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(prompts))
        longest = max(map(len, prompts)) - shared
        ids = torch.zeros(len(prompts), shared + longest, dtype=torch.long)
        mask = torch.ones_like(ids)
        for row, prompt in enumerate(prompts):
            rest = prompt[shared:]
            ids[row, :shared] = torch.tensor(prompt[:shared])
            ids[row, len(ids[row]) - len(rest) :] = torch.tensor(rest)
            mask[row, shared : len(ids[row]) - len(rest)] = 0
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=asking.max_new_tokens,
            do_sample=False,
        )
        for question, row in zip(questions, out[:, ids.shape[1] :].tolist(), strict=True):
            self.answers[question.id] = chat.decode(row)
