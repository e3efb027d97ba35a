"""What a model takes in memory, from the headers of its files and its configuration; nothing is loaded."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BYTES = {"bf16": 2, "fp32": 4}
MOST_HEADER = 100 << 20  # bytes
_UNREADABLE = (OSError, ValueError, struct.error, AttributeError, KeyError, TypeError)


def parameters_of(folder: Path) -> int | None:
    """The number of weights in a folder's safetensors; None where it has none, or they cannot be read."""
    files = sorted(folder.glob("*.safetensors"))
    try:
        return sum(math.prod(shape) for file in files for shape in _header(file).values()) if files else None
    except _UNREADABLE:
        return None


def shapes_in(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the tensors in those of the files that are safetensors and can be read."""
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with contextlib.suppress(*_UNREADABLE):
                found |= _header(file)
    return found


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    with open(file, "rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        header: Any = json.loads(handle.read(length)) if length <= MOST_HEADER else None
    return {name: tuple(map(int, t["shape"])) for name, t in header.items() if name != "__metadata__"}


def cache_bytes_per_token(folder: Path, precision: str) -> int | None:
    """Bytes of keys and values of one token over all layers; None where the configuration does not say."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config") or config
        heads = text["num_attention_heads"]
        width = text.get("head_dim") or text["hidden_size"] // heads
        kept = text.get("num_key_value_heads") or heads
        return 2 * int(text["num_hidden_layers"]) * int(kept) * int(width) * BYTES[precision]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None
