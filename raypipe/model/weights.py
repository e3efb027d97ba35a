"""Weights in files of other codes, read tensor by tensor into a model that takes no memory before.

A file is read as safetensors or with torch's weights-only unpickler, which refuses anything that runs code.
Every key must find its place, with its shape, and every weight of the model its key: an error names others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open

from raypipe.errors import RequestError

SHOWN = 4  # keys that an error names


def shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Key -> shape of every tensor in the files, without reading what is in them where that can be.

    Raises:
        RequestError: a file that cannot be read, or a key in two files.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        with _Opened(file) as opened:
            for key in opened.keys():  # noqa: SIM118 - no mapping
                if key in found:
                    raise RequestError(f"{file}: {key} is in two files of {file.parent}")
                found[key] = opened.shape(key)
    return found


def tensors(files: Sequence[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the files, one at a time.

    Raises:
        RequestError: a file that cannot be read.
    """
    for file in files:
        with _Opened(file) as opened:
            for key in opened.keys():  # noqa: SIM118
                yield key, opened.tensor(key)


@dataclass
class Source:
    """Files of weights, and where in the model each of their keys belongs.

    ``place`` says the name in the model of a key, or None for a key that is known and not needed.
    """

    files: Sequence[Path]
    place: Callable[[str], str | None]
    said: str  # what the files are, for an error


def empty(build: Callable[[], Any]) -> Any:
    """A model whose parameters have shapes and no memory yet; the random state is left alone."""
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        return build()


def fill(
    model: Any, sources: Sequence[Source], dtype: torch.dtype, names: Collection[str] | None = None
) -> None:
    """Puts weights into a model, converted to ``dtype``, holding them once.

    Args:
        names: the parameters that the sources give, no more and no less; None: all of the model.

    Raises:
        RequestError: keys that are not used or missing, shapes that do not fit, a file that cannot be read.
    """
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    expected = set(wanted if names is None else names)
    for source in sources:
        _check(source, wanted, expected)
    if expected:
        of = " and ".join(dict.fromkeys(source.said for source in sources))
        raise RequestError(
            f"{of}: {len(expected)} weights of the model are missing ({_some(sorted(expected))})",
            "is it all of the checkpoint, and of this architecture?",
        )
    for source in sources:
        for key, tensor in tensors(source.files):
            name = source.place(key)
            if name is not None:
                put(model, name, tensor, dtype)


def put(model: Any, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """Gives one parameter of a model its values, as memory of its own."""
    above, _, last = name.rpartition(".")
    module, old = model.get_submodule(above), model.get_parameter(name)
    new = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
    setattr(module, last, torch.nn.Parameter(new, requires_grad=old.requires_grad))


def _check(source: Source, wanted: dict[str, tuple[int, ...]], expected: set[str]) -> None:
    """Takes a source's names out of those expected; complains of what has no place."""
    unused, wrong = [], []
    for key, shape in shapes(source.files).items():
        name = source.place(key)
        if name is None:
            continue
        if name not in expected:
            unused.append(key)
        elif wanted[name] != shape:
            wrong.append(f"{key} is {list(shape)} and not {list(wanted[name])}")
        expected.discard(name)
    if wrong:
        raise RequestError(f"{source.said}: {len(wrong)} weights have another shape: {_some(wrong)}")
    if unused:
        raise RequestError(
            f"{source.said}: {len(unused)} keys have no place in the model ({_some(unused)})",
            "is it a checkpoint of this architecture?",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


class _Opened:
    """One file of tensors; whatever is wrong with it becomes an error that names it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> _Opened:
        self._opened: Any = self._guarded(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        self._opened = None

    def keys(self) -> list[str]:
        return sorted(self._opened.keys())

    def shape(self, key: str) -> tuple[int, ...]:
        if isinstance(self._opened, dict):
            return tuple(self._opened[key].shape)
        return tuple(self._guarded(lambda: self._opened.get_slice(key).get_shape()))

    def tensor(self, key: str) -> torch.Tensor:
        found = self._opened[key] if isinstance(self._opened, dict) else None
        if found is None:
            found = self._guarded(lambda: self._opened.get_tensor(key))
        if not found.is_floating_point():
            raise RequestError(f"{self._file}: {key} is of type {found.dtype}, not of floating point")
        return found

    def _open(self) -> Any:
        if self._file.suffix == ".safetensors":
            return safe_open(self._file, "pt")
        with open(self._file, "rb") as handle:
            mapped = handle.read(4) == b"PK\x03\x04"  # the older format cannot be mapped into memory
        found = torch.load(self._file, map_location="cpu", weights_only=True, mmap=mapped)
        if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
            raise ValueError("it holds something other than named tensors")
        return found

    def _guarded(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as fault:  # the readers raise a dozen kinds for a damaged or hostile file
            first = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
            raise RequestError(
                f"{self._file} cannot be read as weights: {first[:200]}", "fetch the file again"
            ) from fault
