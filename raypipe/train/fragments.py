"""Fragments: what each rank holds of the trained parameters, as safetensors files that any reader can use.

A key is ``KIND/NAME@OFFSET``: so many elements of a flattened parameter from OFFSET on, in fp32. KIND is the
weight itself or one of AdamW's two moments. Over all files of a checkpoint each element is there once,
however it was shared out, so a reader takes the ranges that it needs and nothing is ever converted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from raypipe.errors import DamageError
from raypipe.store.files import Store

MASTER, FIRST, SECOND = "master", "exp_avg", "exp_avg_sq"
KINDS = (MASTER, FIRST, SECOND)
FORMAT = "raypipe fragments 1"
ALIGNED = 64
ITEM = 4  # bytes of an element
GAP, MOST = 1 << 20, 64 << 20  # bytes: what is read over rather than asked for again; of one request


def key(kind: str, name: str, offset: int) -> str:
    return f"{kind}/{name}@{offset}"


class Image:
    """A safetensors file in host memory, laid out once for the same tensors of every checkpoint."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._shape = _shape(tensors)
        header: dict[str, Any] = {"__metadata__": {"format": FORMAT}}
        at = 0
        for name, length in self._shape:
            header[name] = {"dtype": "F32", "shape": [length], "data_offsets": [at, at + ITEM * length]}
            at += ITEM * length
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % ALIGNED)
        self._start = 8 + len(text)
        self.data = bytearray(self._start + at)
        self.data[: self._start] = len(text).to_bytes(8, "little") + text

    def holds(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether these are the tensors that it was laid out for."""
        return self._shape == _shape(tensors)

    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies the tensors in, from whatever device they are on."""
        elements = (len(self.data) - self._start) // ITEM
        if not elements:
            return
        flat = torch.frombuffer(self.data, dtype=torch.float32, count=elements, offset=self._start)
        at = 0
        for name, length in self._shape:
            flat[at : at + length].copy_(tensors[name].detach())
            at += length


def _shape(tensors: Mapping[str, torch.Tensor]) -> list[tuple[str, int]]:
    return [(name, tensor.numel()) for name, tensor in tensors.items()]


@dataclass
class Want:
    """Elements of a parameter that a reader needs, and the flat tensor of ``length`` elements they go to."""

    kind: str
    name: str
    offset: int
    target: torch.Tensor
    open: list[tuple[int, int]] = field(init=False)  # what is not found yet, as ranges of the parameter

    def __post_init__(self) -> None:
        self.open = [(self.offset, self.offset + self.target.numel())] if self.target.numel() else []


@dataclass(frozen=True)
class _Held:
    """A fragment in a file: elements of a parameter, and where its bytes begin."""

    offset: int
    length: int
    begin: int


@dataclass(frozen=True)
class _Copy:
    begin: int  # in the file
    target: torch.Tensor


class Fragments:
    """The fragments of one committed checkpoint.

    Args:
        record: the checkpoint's record (checkpoints.py).
        rank: the reader's; the file of that rank is looked at first, since at the same number of workers it
            holds all that is needed.

    Raises:
        DamageError: from every method: a file is not what raypipe writes.
    """

    def __init__(self, store: Store, record: Mapping[str, Any], rank: int = 0) -> None:
        self._store = store
        names = sorted(record["files"])
        first = rank % max(1, len(names))
        self._names = [f"{record['folder']}/{n}" for n in names[first:] + names[:first]]
        self._headers: dict[str, dict[tuple[str, str], list[_Held]]] = {}

    def parameters(self) -> set[str]:
        """The names of all trained parameters."""
        return {name for file in self._names for _, name in self._header(file)}

    def read(self, wants: Iterable[Want]) -> None:
        """Fills the targets, with no more files read than needed.

        Raises:
            DamageError: an element is in no file.
        """
        left = [w for w in wants if w.open]
        for file in self._names:
            if not left:
                return
            header = self._header(file)
            copies = [c for w in left for c in _found(w, header.get((w.kind, w.name), ()))]
            self._copy(file, copies)
            left = [w for w in left if w.open]
        if left:
            missing = f"{left[0].kind} of {left[0].name} from {left[0].open[0][0]} on"
            raise DamageError(f"the checkpoint in {self._store.root} lacks {missing}")

    def _header(self, file: str) -> dict[tuple[str, str], list[_Held]]:
        if file not in self._headers:
            try:
                self._headers[file] = self._parsed(file)
            except (ValueError, KeyError, TypeError, AttributeError) as fault:
                raise DamageError(f"{self._store.root}/{file} is no file of fragments ({fault})") from fault
        return self._headers[file]

    def _parsed(self, file: str) -> dict[tuple[str, str], list[_Held]]:
        size = self._store.size(file)
        length = int.from_bytes(self._store.range(file, 0, 8), "little")
        if length > size - 8:
            raise ValueError("its header is longer than the file")
        body = json.loads(self._store.range(file, 8, length))
        if body.pop("__metadata__")["format"] != FORMAT:
            raise ValueError(f"not in the format '{FORMAT}'")
        held: dict[tuple[str, str], list[_Held]] = {}
        for label, entry in body.items():
            kind, _, rest = label.partition("/")
            name, _, offset = rest.rpartition("@")
            begin, end = entry["data_offsets"]
            if entry["dtype"] != "F32" or not 0 <= begin <= end <= size - 8 - length:
                raise ValueError(f"{label} is not fp32, or not inside the file")
            place = _Held(int(offset), (end - begin) // ITEM, 8 + length + begin)
            held.setdefault((kind, name), []).append(place)
        return held

    def _copy(self, file: str, copies: list[_Copy]) -> None:
        if not copies:
            return
        if self._store.is_local:
            mapped = np.memmap(self._store.path(file), np.uint8, "c")
            for copy in copies:
                part = mapped[copy.begin : copy.begin + ITEM * copy.target.numel()]
                copy.target.copy_(torch.from_numpy(part).view(torch.float32))
            return
        for group in _together(copies):
            start = group[0].begin
            end = group[-1].begin + ITEM * group[-1].target.numel()
            block = bytearray(self._store.range(file, start, end - start))
            if len(block) != end - start:
                raise DamageError(f"{self._store.root}/{file} became shorter while it was read")
            for copy in group:
                count = copy.target.numel()
                part = torch.frombuffer(block, dtype=torch.float32, count=count, offset=copy.begin - start)
                copy.target.copy_(part)


def _found(want: Want, held: Iterable[_Held]) -> Iterator[_Copy]:
    """The copies that a file can give to a want; what they cover is no longer open."""
    for piece in held:
        rest: list[tuple[int, int]] = []
        for low, high in want.open:
            start, end = max(low, piece.offset), min(high, piece.offset + piece.length)
            if start >= end:
                rest.append((low, high))
                continue
            target = want.target[start - want.offset : end - want.offset]
            for part in range(0, end - start, MOST // ITEM):
                piece_of = target[part : part + MOST // ITEM]
                yield _Copy(piece.begin + ITEM * (start - piece.offset + part), piece_of)
            rest += [(a, b) for a, b in ((low, start), (end, high)) if a < b]
        want.open = rest


def _together(copies: list[_Copy]) -> Iterator[list[_Copy]]:
    """Copies that lie close to each other in a file, in one request of at most MOST bytes."""
    group: list[_Copy] = []
    for copy in sorted(copies, key=lambda c: c.begin):
        if group:
            end = group[-1].begin + ITEM * group[-1].target.numel()
            whole = copy.begin + ITEM * copy.target.numel() - group[0].begin
            if copy.begin - end > GAP or whole > MOST:
                yield group
                group = []
        group.append(copy)
    if group:
        yield group
