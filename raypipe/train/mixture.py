"""Samples and media by number from committed shards, read through memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe.errors import RequestError
from raypipe.records import SAMPLE_SCHEMA, Sample, samples_of
from raypipe.store.index import MediaReader
from raypipe.store.run import Run
from raypipe.store.shards import Shard


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
