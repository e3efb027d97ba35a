"""Models: random at a named size, or loaded from a folder; what is in the folder decides, not its name."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from raypipe.errors import RequestError
from raypipe.model.families import family_named, family_of
from raypipe.model.family import Family
from raypipe.model.pixels import Look
from raypipe.records import fingerprint
from raypipe.settings import Rendition, Sampling, local
from raypipe.store.run import Run
from raypipe.text.chat import TEMPLATES, ChatEncoder, Protocol

CARD = "raypipe.json"
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Card:
    """What a model was trained with, kept beside its weights, so that evaluation shows it the same."""

    template: str = "v1"
    image_aspect: str = "pad"
    sampling: Sampling = field(default_factory=Sampling)
    rendition: Rendition = field(default_factory=Rendition)
    parents: tuple[dict[str, str], ...] = ()
    pixels: str = "antialias"  # the recipe: see pixels.py

    def dump(self) -> str:
        body = asdict(self)
        body["sampling"], body["rendition"] = self.sampling.model_dump(), self.rendition.model_dump()
        return json.dumps(body, indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a model folder; the reference's ways where there is none."""
        file = folder / CARD
        if not file.exists():
            return cls()
        body = json.loads(file.read_text())
        body["sampling"], body["rendition"] = Sampling(**body["sampling"]), Rendition(**body["rendition"])
        body["parents"] = tuple(body.get("parents", ()))
        return cls(**body)


@dataclass
class LoadedModel:
    """A model with everything needed to talk to it."""

    model: Any
    family: Family
    tokenizer: Tokenizer
    card: Card
    folder: Path | None = None

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


def folder_of(path: str) -> Path:
    """The model folder that a path means: a finished raypipe training run, or a folder of weights.

    Raises:
        RequestError: neither.
    """
    root = Path(local(path))
    if not root.is_dir():
        raise RequestError(
            f"no such model folder: {root}", "give a training run's out= folder or a Hugging Face folder"
        )
    if (root / "settings.json").exists() and not (root / "config.json").exists():
        Run.open(str(root), "train")
        root = root / "model"
    if not ((root / "config.json").exists() or (root / "adapter_config.json").exists()):
        raise RequestError(
            f"{root} holds neither config.json nor adapter_config.json", "name a folder with a model"
        )
    return root


def weights_fingerprint(path: str, base: str | None) -> str:
    """Names a model by the content of its folder (sizes and hashes of its files), not by its path."""
    parts: list[Any] = []
    for folder in [folder_of(path), *([folder_of(base)] if base else [])]:
        for file in sorted(p for p in folder.iterdir() if p.is_file()):
            parts.append((file.name, file.stat().st_size, _file_digest(file)))
    return fingerprint(parts)


def random_model(
    size: str, tokenizer: Tokenizer, seed: int, family_name: str = "video_llava_hf"
) -> LoadedModel:
    """A model with random weights of a named size; the same seed gives the same weights."""
    _settle_libraries()
    family = family_named(family_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.cls(family.random(size, tokenizer.get_vocab_size()))
    return LoadedModel(model, family, tokenizer, Card())


def load_model(
    path: str, base: str | None = None, precision: str = "fp32", *, trainable: bool = False
) -> LoadedModel:
    """A model from a folder; an adapter is laid, unmerged, over its base.

    Raises:
        RequestError: not a model, an adapter without its base, or an unknown architecture.
    """
    _settle_libraries()
    folder = folder_of(path)
    if (folder / "adapter_config.json").exists():
        return _load_adapter(folder, base, precision, trainable)
    if base is not None:
        raise RequestError(f"{folder} is a whole model, not an adapter", "leave model_base out")
    with _readable(folder):
        config = AutoConfig.from_pretrained(folder)
    family = family_of(config)
    with _readable(folder):
        model = family.cls.from_pretrained(folder, dtype=DTYPES[precision])
    return LoadedModel(model.eval(), family, _tokenizer(folder), Card.read(folder), folder)


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
    wrapped = PreTrainedTokenizerFast(tokenizer_object=loaded.tokenizer, **SPECIAL_TOKENS)
    wrapped.save_pretrained(out)
    (out / CARD).write_text(card.dump())


@functools.cache
def _settle_libraries() -> None:
    """Keeps transformers' progress bars out of raypipe's own lines; tells DeepSpeed which device there is."""
    disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # PEFT asks by the old name
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _load_adapter(folder: Path, base: str | None, precision: str, trainable: bool) -> LoadedModel:
    from peft import PeftModel  # only where an adapter is

    if base is None:
        raise RequestError(
            f"{folder} is a LoRA adapter", "name the model it was trained over: model_base=..."
        )
    under = load_model(base, None, precision)
    with _readable(folder):
        under.model = PeftModel.from_pretrained(under.model, folder, is_trainable=trainable)
    under.model.eval()
    return LoadedModel(under.model, under.family, under.tokenizer, Card.read(folder), folder)


def _tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.exists():
        raise RequestError(
            f"{folder} has no tokenizer.json", "convert the tokenizer to the fast format first"
        )
    return Tokenizer.from_file(os.fspath(file))


def _file_digest(file: Path) -> str:
    import hashlib

    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "blake2b").hexdigest()[:24]
