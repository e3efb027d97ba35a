"""The model a stage begins with: its outline and its tokenizer. No weight is read, torch is not imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from raypipe.errors import RequestError
from raypipe.model.facts import shapes_in
from raypipe.model.layouts import (
    Layout,
    body_of,
    folder_of,
    layout_of,
    tower_body,
    towers_named,
    vision_body,
    weight_files,
)
from raypipe.model.llama_tokenizer import folder_tokenizer
from raypipe.model.near import bytes_to_fetch
from raypipe.model.outline import FRAMES, Outline, assembled_outline, outline_of, random_outline
from raypipe.settings import Start
from raypipe.text.chat import TEMPLATES
from raypipe.text.tokenizer import SPECIAL, train_tokenizer
from raypipe.train.mixture import Mixture

TEXTS = 20_000  # samples whose texts a random model's tokenizer is trained on
VOCABULARY = 32_000  # of a random model whose data is not there yet: Llama's
OVER_TIME = "encoder.layers.0.temporal_embedding"


def outline_of_start(start: Start, mixture: Mixture | None) -> tuple[Outline, Tokenizer | None]:
    """The outline of what ``start.build_model`` would build, before adapters; and its tokenizer.

    Args:
        mixture: None where the data is not there yet: a random model then has no tokenizer.

    Raises:
        RequestError: what is started from is not there, lies at an address and is not fetched yet, or has
            an architecture whose shapes are not known.
    """
    if start.random is not None:
        template = random_outline(start.random, start.family, VOCABULARY).template
        tokenizer = random_tokenizer(template, mixture) if mixture is not None else None
        words = tokenizer.get_vocab_size() if tokenizer is not None else VOCABULARY
        return random_outline(start.random, start.family, words), tokenizer
    if start.parts is not None:
        names = (start.parts.language_model, start.parts.image_tower, start.parts.video_tower)
        return _assembled(*(_here(name) for name in names))
    return _of_folder(str(start.model), start.model_base)


def random_tokenizer(template: str, mixture: Mixture) -> Tokenizer:
    """The tokenizer of a model that starts from random weights: trained on the mixture's own texts."""
    texts = [t.system for t in TEMPLATES.values()] + ["USER: ASSISTANT:"] * 8
    texts += [t for number in range(min(len(mixture), TEXTS)) for t in mixture.texts(number)]
    spelled = TEMPLATES[template].tokens
    # In this order a model's ids of padding, begin and end are 0, 1 and 2 (see the families' random).
    special = SPECIAL if set(spelled) <= set(SPECIAL) else ("<|endoftext|>", *spelled)
    return train_tokenizer([f" {t}" for t in texts], special=special)


def _of_folder(path: str, base: str | None) -> tuple[Outline, Tokenizer]:
    folder = _here(path)
    layout = layout_of(folder)
    if layout in (Layout.ADAPTER, Layout.PROJECTOR):
        if base is None:
            raise RequestError(f"{folder} is {layout}", "name the model it was trained over: model_base=...")
        under = _here(base)
        if layout_of(under) is not Layout.LANGUAGE_MODEL:
            return _of_folder(base, None)
        return _assembled(under, *towers_named(body_of(folder), folder))
    if layout is Layout.ORIGINAL:
        body = body_of(folder)
        image, video = (tower_body(body, kind, folder) for kind in ("image", "video"))
        own = "model.video_tower.video_tower."
        shapes = {k.removeprefix(own): s for k, s in shapes_in(weight_files(folder)).items()}
        return _joined(body, image, video, shapes), folder_tokenizer(folder)
    if layout is not Layout.HF:
        raise RequestError(f"{folder} holds {layout}", "put a model together of its parts: start.parts")
    return outline_of(body_of(folder)), folder_tokenizer(folder)


def _assembled(text: Path, image: Path, video: Path) -> tuple[Outline, Tokenizer]:
    shapes = {k.removeprefix("vision_model."): s for k, s in shapes_in(weight_files(video)).items()}
    return _joined(body_of(text), vision_body(image), vision_body(video), shapes), folder_tokenizer(text)


def _joined(
    body: dict[str, Any], image: dict[str, Any], video: dict[str, Any], shapes: dict[str, tuple[int, ...]]
) -> Outline:
    """Whether the video tower attends over time its weights say, and where they do not, its configuration."""
    text = {name: value for name, value in body.items() if name != "model_type" and value is not None}
    found = shapes.get(OVER_TIME)
    temporal = bool(found or video.get("add_time_attn") or video.get("temporal"))
    frames = found[1] if found and len(found) == 3 else int(video.get("num_frames") or FRAMES)
    return assembled_outline(text, image, video, temporal=temporal, frames=frames)


def _here(path: str) -> Path:
    """The folder of a model; one at an address is not fetched for a plan."""
    if "://" in path and (count := bytes_to_fetch(path)):
        raise RequestError(
            f"{path} is not on this machine yet ({count / 2**30:.1f} GiB)",
            "its shapes are known once a run has fetched it",
        )
    return folder_of(path)
