"""The arm of bench.gpu that answers: ``python -m bench.gpu_answers SETTINGS.json``; prints a JSON line.

Ten questions on each of some drawn videos, in batches over shared prefixes, against one at a time with their
full prompts. The model has random weights, so every answer is as long as it may be.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.asked import WORDS
from raypipe.evaluate.engine import Shown, Way
from raypipe.evaluate.local import LocalEngine
from raypipe.model.build import LoadedModel
from raypipe.model.cards import Card
from raypipe.model.families import family_named
from raypipe.records import MediumKind
from raypipe.text.templates import TEMPLATES
from raypipe.text.tokenizer import train_tokenizer

GIB = 1 << 30


@dataclass(frozen=True)
class Asked:
    """What is measured: a model of a named size, and how much it is asked."""

    size: str = "7b"
    family: str = "video_llava_hf"
    precision: str = "bf16"
    vocabulary: int = 32000
    videos: int = 16
    questions: int = 10
    batch: int = 32
    new_tokens: int = 16
    alone: int = 10  # questions asked one at a time


def main() -> None:
    asked = Asked(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(measured(asked)))


def measured(asked: Asked) -> dict[str, Any]:
    """Questions a second both ways, how many answers are equal, and how busy the GPU was."""
    engine = LocalEngine(built(asked), asked.precision, asked.batch)
    shown = [drawn_video(asked, n) for n in range(asked.videos)]
    way = Way("v1", "pad", asked.new_tokens)
    engine.answer(shown[:1], way)
    engine.alone(shown[0], shown[0].prompts[0], way)
    with Busy() as busy:
        began = time.perf_counter()
        replies = engine.answer(shown, way)
        batched_s = (time.perf_counter() - began) / (asked.videos * asked.questions)
    again, began = [], time.perf_counter()
    for number in range(asked.alone):
        one = shown[number % len(shown)]
        again.append(engine.alone(one, one.prompts[number // len(shown) % asked.questions], way))
    alone_s = (time.perf_counter() - began) / asked.alone
    pairs = [(replies[n % len(shown)][n // len(shown) % asked.questions], a) for n, a in enumerate(again)]
    return {
        "questions_s": round(1 / batched_s, 3),
        "alone_questions_s": round(1 / alone_s, 3),
        "speedup": round(alone_s / batched_s, 2),
        "failed": [r.failed for one in replies for r in one if r.failed][:3],
        "answers_equal": f"{sum(r.tokens == a.reply.tokens for r, a in pairs)} of {asked.alone}",
        "visual_tokens": engine.loaded.family.visual(engine.model.config)[MediumKind.VIDEO].count,
        **busy.found(),
        **_device(engine),
    }


def built(asked: Asked) -> LoadedModel:
    """The model, its random weights drawn where it will be: a CPU takes minutes for 7 billion."""
    family = family_named(asked.family)
    tokenizer = train_tokenizer([TEMPLATES["v1"].system, "USER: ASSISTANT:", " ".join(WORDS) + " ?"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if asked.precision == "bf16" else torch.float32)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            torch.manual_seed(0)
            model = family.cls(family.random(asked.size, asked.vocabulary))
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = asked.vocabulary + 1  # random answers would end at any token
    return LoadedModel(model, family, tokenizer, Card())


def drawn_video(asked: Asked, number: int) -> Shown:
    """Eight JPEG frames of noise in blocks, as prepare would store them, and the questions on them."""
    rng = np.random.default_rng(number)
    frames = []
    for _ in range(8):
        small = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize((298, 224), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        frames.append(out.getvalue())
    prompts = [" ".join(rng.choice(WORDS, rng.integers(5, 12))) + "?" for _ in range(asked.questions)]
    return Shown(MediumKind.VIDEO, tuple(frames), tuple(prompts))


@dataclass
class Busy:
    """How busy the GPU says it is meanwhile, five times a second; nothing without one."""

    shares: list[float] = field(default_factory=list)

    def __enter__(self) -> Busy:
        self._sampler = None
        if torch.cuda.is_available():
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
            self._sampler = subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._sampler is not None:
            self._sampler.terminate()
            said, _ = self._sampler.communicate()
            self.shares = [float(line) / 100 for line in said.split() if line.strip().isdigit()]

    def found(self) -> dict[str, Any]:
        if not self.shares:
            return {"gpu_busy": None}
        return {"gpu_busy": round(fmean(self.shares), 3), "gpu_samples": len(self.shares)}


def _device(engine: LocalEngine) -> dict[str, Any]:
    if engine.device.type != "cuda":
        return {"device": "cpu", "torch": torch.__version__}
    peak = round(torch.cuda.max_memory_allocated() / GIB, 2)
    return {"device": torch.cuda.get_device_name(0), "peak_gib": peak, "torch": torch.__version__}


if __name__ == "__main__":
    main()
