"""Models: random at a named size, of parts, or loaded from a folder; what is in it decides, not its name."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from raypipe.errors import RequestError, remedied
from raypipe.model import original
from raypipe.model.cards import CARD, Card, card_of, is_original, original_card
from raypipe.model.families import FAMILIES, family_named, family_of
from raypipe.model.family import Family
from raypipe.model.layouts import (
    PROJECTOR_FILE,
    WHOLE,
    Layout,
    body_of,
    folder_of,
    layout_of,
    towers_named,
)
from raypipe.model.llama_tokenizer import SPIECE, folder_tokenizer
from raypipe.model.near import near_model
from raypipe.model.pixels import Look
from raypipe.settings import Sampling, StartParts, local
from raypipe.text.chat import TEMPLATES, ChatEncoder, Protocol

SPECIAL_TOKENS = (
    {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"},
    {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class LoadedModel:
    """A model with everything needed to talk to it.

    ``folder`` is where it was loaded from; ``spiece`` the sentencepiece file of its tokenizer, where there is
    one: the reference's code reads no other, so it goes along with every export.
    """

    model: Any
    family: Family
    tokenizer: Tokenizer
    card: Card
    folder: Path | None = None
    spiece: Path | None = None

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def side(self) -> int:
        """Side of the square pictures its towers take, in pixels."""
        return self.family.side(self.config)

    def look(self, aspect: str | None = None, recipe: str | None = None) -> Look:
        """How media are shown to it; None: as it was trained."""
        family = self.family
        return Look(
            self.side, aspect or self.card.image_aspect, recipe or self.card.pixels, family.mean, family.std
        )

    def chat(self, template: str | None = None, protocol: Protocol = "corrected") -> ChatEncoder:
        """The encoder of a template; None: the model's own, "auto": that of its family."""
        visual = self.family.visual(self.config)
        name = self.family.template if template == "auto" else template or self.card.template
        return ChatEncoder(self.tokenizer, TEMPLATES[name], visual, protocol)


@remedied(WHOLE)
def asked_for(path: str, base: str | None) -> tuple[Path, Layout]:
    """The folder of a model and what it holds; whether it needs a base, its content says.

    Raises:
        RequestError: not a model, an adapter or a projector without its base, or a whole model with one.
    """
    folder = folder_of(path)
    layout = layout_of(folder)
    if layout in (Layout.LANGUAGE_MODEL, Layout.TOWER):
        raise RequestError(f"{folder} holds {layout}", "put a model together of its parts: start.parts")
    part = layout in (Layout.ADAPTER, Layout.PROJECTOR)
    if part and base is None:
        raise RequestError(f"{folder} is {layout}", "name the model it was trained over: model_base=...")
    if not part and base is not None:
        raise RequestError(
            f"{folder} is a whole model, not an adapter", "name the adapter, or leave model_base out"
        )
    return folder, layout


def parts_below(folder: Path, base: str | None) -> StartParts | None:
    """The parts of the model below an adapter or a projector; None: its base is a whole model.

    Raises:
        RequestError: the base is a language model alone, and the towers it needs are no folders here.
    """
    if base is None or layout_of(folder_of(base)) is not Layout.LANGUAGE_MODEL:
        return None
    image, video = towers_named(body_of(folder), folder)
    return StartParts(
        language_model=base, image_tower=str(image), video_tower=str(video), projector=str(folder)
    )


def random_model(
    size: str, tokenizer: Tokenizer, seed: int, family_name: str = "video_llava_hf"
) -> LoadedModel:
    """A model with random weights of a named size; the same seed gives the same weights."""
    _settle_libraries()
    family = family_named(family_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.cls(family.random(size, tokenizer.get_vocab_size()))
    _warn(family)
    return LoadedModel(model, family, tokenizer, Card())


@remedied(WHOLE)
def load_model(
    path: str, base: str | None = None, precision: str = "fp32", *, trainable: bool = False
) -> LoadedModel:
    """A model from a folder; an adapter is laid, unmerged, over its base, a projector alone put into it.

    Takes finished runs, folders in the Hugging Face layout and the original layouts (see ``original``). A
    base may be a language model alone where the folder above it names the towers and holds the projector.

    Raises:
        RequestError: not a model, an adapter without its base, or an unknown architecture.
    """
    _settle_libraries()
    folder, layout = asked_for(path, base)
    if layout is Layout.ADAPTER:
        return _load_adapter(folder, base, precision, trainable)
    if layout is Layout.PROJECTOR:
        return _load_projector(folder, base, precision)
    spiece = _spiece(folder)
    if layout is Layout.ORIGINAL:
        model = original.load_original(folder, DTYPES[precision])
        family, tokenizer = family_of(model.config), _tokenizer(folder, model)
        card = original_card(folder, family, model.config)
        return LoadedModel(model.eval(), family, tokenizer, card, folder, spiece)
    config = hf_config(folder)
    family = family_of(config)
    with _readable(folder):
        model, told = family.cls.from_pretrained(folder, dtype=DTYPES[precision], output_loading_info=True)
    odd = sorted(told["missing_keys"])
    odd = odd or sorted(k for k in told["unexpected_keys"] if not k.endswith(original.DERIVED))
    if odd:
        said = "lacks weights" if told["missing_keys"] else "has weights without a place in the model"
        raise RequestError(f"{folder} {said}: {len(odd)}, such as {', '.join(odd[:3])}")
    _warn(family)
    card = card_of(folder, family, config)
    return LoadedModel(model.eval(), family, _tokenizer(folder, model), card, folder, spiece)


def from_parts(parts: StartParts, seed: int, precision: str = "fp32") -> LoadedModel:
    """A model of a language model, two vision towers and a projector, a fresh one where none is named.

    Raises:
        RequestError: a part that is missing, of another kind, or does not go with the others.
    """
    _settle_libraries()
    names = (parts.language_model, parts.image_tower, parts.video_tower)
    text, image, video = (folder_of(name) for name in names)
    projector = projector_place(parts.projector) if parts.projector else None
    model = original.assemble(text, image, video, projector, seed, DTYPES[precision])
    card = Card(sampling=Sampling(frames=model.config.video_config.num_frames))
    return LoadedModel(
        model.eval(), family_of(model.config), _tokenizer(text, model), card, None, _spiece(text)
    )


def with_projector(loaded: LoadedModel, path: str) -> LoadedModel:
    """Replaces the projector: the reference's ``pretrain_mm_mlp_adapter``.

    Args:
        path: mm_projector.bin, its folder, a finished run or any model folder that holds a projector.

    Raises:
        RequestError: there is none, or it has another shape.
    """
    original.with_projector(loaded.model, projector_place(path), next(loaded.model.parameters()).dtype)
    return loaded


def projector_place(path: str) -> Path:
    """The file or folder that a projector is read from."""
    if "://" in path:
        return near_model(path)
    root = Path(local(path))
    alone = root.is_file() or (root / PROJECTOR_FILE).exists()
    return root if alone else folder_of(path)


def hf_config(folder: Path) -> Any:
    """The configuration of a folder in the Hugging Face layout.

    Raises:
        RequestError: it cannot be read.
    """
    with _readable(folder):
        return AutoConfig.from_pretrained(folder)


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """What the libraries say of files that are missing or damaged, as an error with a cause."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as fault:
        first = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise RequestError(f"the model in {folder} cannot be loaded: {first[:300]}") from fault


def save_model(loaded: LoadedModel, card: Card, out: Path) -> None:
    """Exports in the Hugging Face layout: weights (or adapter), tokenizer, card."""
    _settle_libraries()
    out.mkdir(parents=True, exist_ok=True)
    loaded.model.save_pretrained(out, safe_serialization=True)
    if hasattr(loaded.model, "get_base_model"):  # an adapter says too what it lies over
        loaded.model.get_base_model().config.save_pretrained(out)
    if loaded.spiece is not None:
        shutil.copyfile(loaded.spiece, out / SPIECE)
    known = loaded.tokenizer.token_to_id
    special = next((s for s in SPECIAL_TOKENS if all(known(t) is not None for t in s.values())), {})
    PreTrainedTokenizerFast(tokenizer_object=loaded.tokenizer, **special).save_pretrained(out)
    (out / CARD).write_text(card.dump(), encoding="utf-8")


@functools.cache
def _settle_libraries() -> None:
    """Keeps transformers' progress bars out of raypipe's own lines; tells DeepSpeed which device there is."""
    disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # PEFT asks by the old name
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _load_adapter(folder: Path, base: str | None, precision: str, trainable: bool) -> LoadedModel:
    from raypipe.model import original_lora  # PEFT is slow to import; only where an adapter is

    under = _under(folder, base, precision)
    if is_original(folder):
        card = (
            original_card(folder, under.family, under.config)
            if (folder / "config.json").exists()
            else under.card
        )
        model = original_lora.load(folder, under.model, trainable=trainable)
    else:
        card = Card.read(folder)
        with _readable(folder):
            model = original_lora.load_ours(folder, under.model, trainable=trainable)
    return replace(under, model=model.eval(), card=card, folder=folder)


def _load_projector(folder: Path, base: str | None, precision: str) -> LoadedModel:
    under = _under(folder, base, precision)
    with_projector(under, str(folder))
    return replace(under, card=original_card(folder, under.family, under.config), folder=folder)


def _under(folder: Path, base: str | None, precision: str) -> LoadedModel:
    """The model below an adapter or a projector; of a language model alone, with the towers it names."""
    parts = parts_below(folder, base)
    if parts is None:
        return load_model(str(base), None, precision)
    return from_parts(parts, 0, precision)


@functools.cache
def _noted(name: str) -> None:
    logging.getLogger("raypipe.model").warning("%s: %s", name, FAMILIES[name].note)


def _warn(family: Family) -> None:
    """Says once in a process what a user should know of a family."""
    if family.note:
        _noted(family.name)


def _tokenizer(folder: Path, model: Any) -> Tokenizer:
    tokenizer = folder_tokenizer(folder)
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.get_vocab_size() > rows:
        raise RequestError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size()} ids, the model {rows}",
            "use the tokenizer that the model was trained with",
        )
    return tokenizer


def _spiece(folder: Path) -> Path | None:
    file = folder / SPIECE
    return file if file.exists() else None
