"""What a model folder holds, by what is in it: layouts, configurations, files of weights. Loads nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError
from raypipe.model.near import near_model
from raypipe.model.sizes import LANGUAGEBIND
from raypipe.settings import expanded, local
from raypipe.store.run import Run

PROJECTOR_FILE, NON_LORA = "mm_projector.bin", "non_lora_trainables.bin"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
TOWERS_KEY = "raypipe_towers"  # in config.json: the towers' configs, where raypipe wrote the layout
NAMES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
SHOWN = 4  # names that an error gives
WHOLE = "is the folder whole, and of one model? copy or export it again"
TOWER_CONFIG = {**LANGUAGEBIND, "hidden_act": "gelu"}  # of LanguageBind's towers, where no file says it


class Layout(StrEnum):
    """What a folder holds."""

    HF = "a model in the Hugging Face layout"
    ORIGINAL = "a model in the original layout"
    ADAPTER = "a LoRA adapter"
    PROJECTOR = "a projector without its model"
    LANGUAGE_MODEL = "a language model alone"
    TOWER = "a vision tower alone"


def folder_of(path: str) -> Path:
    """The model folder that a path means: a finished raypipe training run, or a folder of weights.

    One at an address such as ``s3://bucket/prefix`` is fetched to this machine, once (see ``near``).

    Raises:
        RequestError: neither.
        ServiceError: a remote storage or this machine's disk refused.
    """
    if "://" in path:
        return near_model(path)
    root = Path(local(path))
    if not root.is_dir():
        raise RequestError(
            f"no such model folder: {root}",
            "give a training run's out= folder or a Hugging Face folder; nothing is downloaded by its name",
        )
    if (root / "settings.json").exists() and not (root / "config.json").exists():
        Run.open(str(root), "train")
        root = root / "model"
    if not ((root / "config.json").exists() or (root / "adapter_config.json").exists()):
        raise RequestError(
            f"{root} holds neither config.json nor adapter_config.json", "name a folder with a model"
        )
    return root


def layout_of(folder: Path) -> Layout:
    """What a folder holds, by what is in it.

    Raises:
        RequestError: its config.json cannot be read.
    """
    if (folder / "adapter_config.json").exists():
        return Layout.ADAPTER
    body = body_of(folder)
    if "mm_video_tower" in body or "mm_image_tower" in body:
        alone = not weight_files(folder) and (folder / PROJECTOR_FILE).exists()
        return Layout.PROJECTOR if alone else Layout.ORIGINAL
    if body.get("model_type") == "llama":
        return Layout.LANGUAGE_MODEL
    clip = str(body.get("model_type", "")).lower().startswith(("clip", "languagebind"))
    return Layout.TOWER if clip else Layout.HF


def body_of(folder: Path) -> dict[str, Any]:
    """config.json of a folder.

    Raises:
        RequestError: it is missing or damaged.
    """
    try:
        body = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise RequestError(f"{folder}/config.json cannot be read: {fault}", WHOLE) from fault
    if not isinstance(body, dict):
        raise RequestError(f"{folder}/config.json is not a configuration", WHOLE)
    return body


def weight_files(folder: Path, names: Sequence[str] = NAMES) -> list[Path]:
    """The files that hold a folder's weights, by its index where it has one; none where there are none.

    Raises:
        RequestError: a damaged index, or a file that it names is missing.
    """
    found = next((folder / name for name in names if (folder / name).exists()), None)
    if found is None or found.suffix != ".json":
        return [found] if found else []
    try:
        listed = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
        if not all(isinstance(name, str) and Path(name).name == name for name in listed):
            raise ValueError("it names files of other folders")
    except (ValueError, KeyError, AttributeError, TypeError) as fault:
        raise RequestError(f"{found} is not an index of weights: {fault}", "fetch it again") from fault
    missing = [name for name in listed if not (folder / name).exists()]
    if missing:
        some = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        said = f"{len(missing)} of {len(listed)} files that {found.name} names are missing ({some})"
        raise RequestError(f"{folder}: {said}", "fetch the missing files")
    return [folder / name for name in listed]


def towers_named(body: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """The folders of the image and the video tower that a config names.

    Raises:
        RequestError: they are not folders of this machine.
    """
    kinds = ("image", "video")
    named = {kind: str(body.get(f"mm_{kind}_tower") or body.get(f"{kind}_tower_name")) for kind in kinds}
    found = {kind: folder_named(name, folder) for kind, name in named.items()}
    if found["image"] is None or found["video"] is None:
        raise RequestError(
            f"{folder} wants the towers {named['image']} and {named['video']}, which are no folders here",
            f"write the folders of the towers into {folder}/config.json, or name a whole model as model_base",
        )
    return found["image"], found["video"]


def tower_body(body: dict[str, Any], kind: str, folder: Path) -> dict[str, Any]:
    """The configuration of a tower of a whole checkpoint, which holds its weights and not its shape."""
    name = str(body.get(f"mm_{kind}_tower"))
    written = body.get(TOWERS_KEY, {}).get(kind)
    if written:
        return dict(written)
    found = folder_named(name, folder)
    if found is not None:
        return vision_body(found)
    if name.rstrip("/").endswith(("LanguageBind_Image", "LanguageBind_Video_merge")):
        return {**TOWER_CONFIG, "temporal": kind == "video"}
    raise RequestError(
        f"{folder}: the {kind} tower {name} is no folder here and not LanguageBind's; its shape is not known",
        f"write the folder of the tower into {folder}/config.json as mm_{kind}_tower",
    )


def vision_body(folder: Path) -> dict[str, Any]:
    body = body_of(folder)
    return dict(body.get("vision_config", body))


def folder_named(name: str, beside: Path) -> Path | None:
    """A folder that a config names, from the working folder or from beside the config."""
    for candidate in (expanded(name), beside / name, beside.parent / name):
        if name and (candidate / "config.json").exists():
            return candidate.resolve()
    return None
