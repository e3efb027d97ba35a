"""What the figures of evaluate ask: drawn videos with ten questions each, and a model that answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig

from bench import drawn
from raypipe.evaluate.plan import Asking, Group, Unit
from raypipe.model.build import LoadedModel
from raypipe.model.cards import Card
from raypipe.model.video_llava_hf import VIDEO_LLAVA_HF
from raypipe.records import MediumKind, MediumRef, Question, fingerprint
from raypipe.settings import Rendition, Sampling
from raypipe.text.chat import TEMPLATES
from raypipe.text.tokenizer import train_tokenizer

QUESTIONS, NEW_TOKENS, FRAMES = 10, 8, 8
SIDE, PATCH = 154, 14  # 122 tokens a frame: 976 a video
SENTENCE = "what who where is are the man woman dog ball red blue doing holding in video of a how many"
WORDS = SENTENCE.split()
CLIPS = [drawn.Drawn("h264-asked", (320, 240), 10, options=drawn.h264(250), seed=60 + n) for n in range(4)]


@dataclass(frozen=True)
class Videos:
    """Drawn videos in a folder, and the unit that asks ten questions about each of them."""

    root: Path
    unit: Unit

    @property
    def count(self) -> int:
        return len(self.unit.groups)


def videos(count: int, new_tokens: int = NEW_TOKENS, questions: int = QUESTIONS) -> Videos:
    files = drawn.folder_of([k.file() for k in CLIPS], count, "asked")
    rng = random.Random(3)  # noqa: S311 - drawn questions
    groups = []
    for file in files:
        medium = MediumRef(MediumKind.VIDEO, file.name)
        asked = [_question(rng, medium, number) for number in range(questions)]
        groups.append(Group(medium, tuple(asked)))
    asking = Asking("random", "v1", "pad", Sampling(frames=FRAMES), Rendition(), "none", new_tokens, "fp32")
    return Videos(files[0].parent, Unit(fingerprint(count, new_tokens), "bench", asking, tuple(groups)))


def _question(rng: random.Random, medium: MediumRef, number: int) -> Question:
    """As long as those of ActivityNet-QA, about eight words."""
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(5, 11))) + "?"
    name = fingerprint(medium.path, number)
    return Question(name, "bench", name, medium, text, text, "yes")


def small_model() -> LoadedModel:
    """A VideoLlava with random weights and 976 visual tokens a video; answers are drawn to differ.

    As in the published model most of the work of a question is the prefill: some 1,000 tokens of prompt
    against 8 of answer.
    """
    tokenizer = train_tokenizer([TEMPLATES["v1"].system, "USER: ASSISTANT: " * 8, " ".join(WORDS) + " ?"])
    per_frame = (SIDE // PATCH) ** 2
    words = tokenizer.get_vocab_size()
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = VideoLlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=PATCH,
            projection_dim=64,
        ),
        text_config=LlamaConfig(
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=2048,
            vocab_size=words + 2,
            initializer_range=0.2,  # wide, so that answers depend on what is asked and shown
            **ids,
        ),
        image_token_index=words,
        video_token_index=words + 1,
        image_seq_length=per_frame,
        video_seq_length=FRAMES * (per_frame + 1),
        **ids,
    )
    torch.manual_seed(5)
    model = VIDEO_LLAVA_HF.cls(config).eval()
    return LoadedModel(model, VIDEO_LLAVA_HF, tokenizer, Card())
