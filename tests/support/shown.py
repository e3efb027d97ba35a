"""Media with questions on them, drawn from a seed, as an engine takes them."""

from __future__ import annotations

import functools
import io
import random

import numpy as np
from PIL import Image

from raypipe.evaluate.engine import Shown, Way
from raypipe.evaluate.local import LocalEngine
from raypipe.records import MediumKind
from tests.support.tiny import tiny_model

IMAGE, VIDEO = MediumKind.IMAGE, MediumKind.VIDEO
SENTENCE = "what moves in the clip ? a yellow bar how many bars are there Ten of"
WORDS = [*SENTENCE.split(), "\n", "é", "7"]


def picture(seed: int, size: tuple[int, int] = (28, 28)) -> bytes:
    made = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(made).save(out, "PNG")
    return out.getvalue()


def medium(kind: MediumKind | None, prompts: list[str], seed: int) -> Shown:
    count = {VIDEO: 8, IMAGE: 1, None: 0}[kind]
    return Shown(kind, tuple(picture(100 * seed + n) for n in range(count)), tuple(prompts))


def question(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.choice([1, 2, 3, 5, 8, 13, 40])))


def drawn(seed: int) -> list[Shown]:
    """Up to six media of any kind with up to six questions on each; some repeat or begin alike."""
    rng = random.Random(seed)
    made = []
    for number in range(rng.randint(1, 6)):
        prompts = [question(rng) for _ in range(rng.choice([0, 1, 1, 2, 4, 6]))]
        if prompts and rng.random() < 0.5:
            prompts += [prompts[0], f"{prompts[0]} {question(rng)}"]
        made.append(medium(rng.choice([VIDEO, VIDEO, IMAGE, None]), prompts, 50 * seed + number))
    return made


@functools.cache
def engine(family: str = "video_llava", precision: str = "fp32", batch: int = 4) -> LocalEngine:
    return LocalEngine(tiny_model(3, family), precision, batch)


def alone(answering: LocalEngine, shown: list[Shown], way: Way) -> list[list[tuple[int, ...]]]:
    """What transformers' ``generate`` makes of each full prompt by itself."""
    return [[answering.alone(one, p, way).reply.tokens for p in one.prompts] for one in shown]


def tokens(replies) -> list[list[tuple[int, ...]]]:
    assert not any(r.failed for one in replies for r in one)
    return [[r.tokens for r in one] for one in replies]
