"""Samples by number from committed shards, and batches for a rank, read through memory maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raypipe.errors import RequestError
from raypipe.model.pixels import frames_uint8, normalised
from raypipe.model.splice import Batch
from raypipe.records import SAMPLE_SCHEMA, MediumKind, Sample, samples_of
from raypipe.store.index import MediaReader
from raypipe.store.run import Run
from raypipe.store.shards import Shard
from raypipe.text.chat import IGNORE, ChatEncoder, Encoded


class Mixture:
    """The samples of several prepare runs as one numbered collection."""

    def __init__(self, runs: Sequence[str]) -> None:
        self.parts = [PreparedRun(r) for r in runs]
        self._ends = np.cumsum([len(p) for p in self.parts])
        if not len(self):
            raise RequestError(f"no samples in {', '.join(runs)}", "look at their quarantine.jsonl")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def sample(self, number: int) -> Sample:
        part, within = self._find(number)
        return part.sample(within)

    def media(self, number: int) -> list[dict[str, Any]]:
        """The media rows of a sample, in the order of its tags."""
        part, within = self._find(number)
        return [part.medium(key) for key in part.sample(within).media]

    def texts(self, number: int) -> list[str]:
        return [t.text for t in self.sample(number).turns]

    def lengths(self) -> tuple[int, ...]:
        """Words of each sample, negative for a text-only one: what batches are grouped by."""
        out = []
        for number in range(len(self)):
            sample = self.sample(number)
            words = max(1, sum(len(t.text.split()) for t in sample.turns))
            out.append(words if sample.media else -words)
        return tuple(out)

    def _find(self, number: int) -> tuple[PreparedRun, int]:
        place = int(np.searchsorted(self._ends, number, side="right"))
        return self.parts[place], number - (int(self._ends[place - 1]) if place else 0)


class PreparedRun:
    """One finished prepare run, open for reading."""

    def __init__(self, root: str) -> None:
        self.run = Run.open(root, "prepare")
        self.facts: dict[str, Any] = self.run.manifest["facts"]
        names = [f["path"] for f in self.run.manifest["files"] if f["path"].startswith("samples/")]
        tables = [Shard(self.run.store, n, SAMPLE_SCHEMA).table() for n in names]
        self._samples: pa.Table = pa.concat_tables(tables) if tables else SAMPLE_SCHEMA.empty_table()
        self._media = MediaReader(self.run.store)

    def __len__(self) -> int:
        return self._samples.num_rows

    def sample(self, number: int) -> Sample:
        return samples_of(self._samples.slice(number, 1).to_pylist())[0]

    def medium(self, key: str) -> dict[str, Any]:
        """One media row.

        Raises:
            DamageError: the index does not name it, or its shard is damaged.
        """
        return self._media.row(key)


@dataclass(frozen=True)
class Example:
    """One sample ready for collation: ids, labels, and uint8 frames [N, side, side, 3] by kind."""

    encoded: Encoded
    pixels: tuple[tuple[MediumKind, np.ndarray], ...]


class Examples:
    """Samples -> Examples for one model."""

    def __init__(self, mixture: Mixture, chat: ChatEncoder, side: int, aspect: str, max_tokens: int) -> None:
        self.mixture, self.chat, self.side, self.aspect, self.max_tokens = (
            mixture,
            chat,
            side,
            aspect,
            max_tokens,
        )
        self.cut = 0  # samples over the length limit so far: cut on the right, as the reference does

    def __getitem__(self, number: int) -> Example:
        sample = self.mixture.sample(number)
        encoded = self.chat.training(sample.turns, sample.kinds)
        if len(encoded.ids) > self.max_tokens:
            encoded = self._shorten(sample, encoded)
        rows = self.mixture.media(number)
        pixels = tuple(
            (kind, frames_uint8(row["frames"], kind, self.side, self.aspect))
            for kind, row in zip(sample.kinds, rows, strict=True)
        )
        return Example(encoded, pixels)

    def _shorten(self, sample: Sample, encoded: Encoded) -> Encoded:
        placeholders = {v.token_id for v in self.chat.visual.values()}
        if any(i in placeholders for i in encoded.ids[self.max_tokens :]):
            raise RequestError(
                f"sample {sample.id}: its media do not fit into max_tokens={self.max_tokens}",
                "raise max_tokens",
            )
        self.cut += 1
        return Encoded(encoded.ids[: self.max_tokens], encoded.labels[: self.max_tokens])


def collate(
    examples: Sequence[Example], weights: Sequence[bool], dtype: torch.dtype, device: Any = "cpu"
) -> Batch:
    """Right-padded batch; an example of weight False carries no labels (it fills up a last batch)."""
    length = max(len(e.encoded.ids) for e in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    mask = torch.zeros(len(examples), length, dtype=torch.long)
    labels = torch.full((len(examples), length), IGNORE, dtype=torch.long)
    for row, (example, counts) in enumerate(zip(examples, weights, strict=True)):
        n = len(example.encoded.ids)
        ids[row, :n] = torch.tensor(example.encoded.ids)
        mask[row, :n] = 1
        if counts:
            labels[row, :n] = torch.tensor(example.encoded.labels)
    pixels: dict[MediumKind, torch.Tensor] = {}
    for kind in MediumKind:
        frames = [p for e in examples for k, p in e.pixels if k is kind]
        if frames:
            pixels[kind] = normalised(np.concatenate(frames), dtype, device)
    return Batch(ids.to(device), mask.to(device), labels.to(device), pixels)


class Ahead:
    """Makes the batches of coming steps while the current one is computed."""

    def __init__(self, make: Callable[[int], Any], first: int, last: int, depth: int = 2) -> None:
        self._make, self._next, self._last = make, first, last
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._queue: list[Future[Any]] = []
        for _ in range(depth):
            self._submit()

    def take(self) -> Any:
        """The next step's batches; waits where they are not ready."""
        ready = self._queue.pop(0).result()
        self._submit()
        return ready

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self) -> None:
        if self._next < self._last:
            self._queue.append(self._pool.submit(self._make, self._next))
            self._next += 1
