"""Where media lie: a folder or an ``s3://`` prefix, looked at without reading."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from raypipe.settings import local


@dataclass(frozen=True)
class State:
    """A medium as its storage describes it: bytes, and ETag or time of change (nanoseconds).

    ``size`` is -1 for what is missing or cannot be named.
    """

    size: int
    stamp: str


MISSING = State(-1, "")


class MediaRoot:
    """The media below one root."""

    def __init__(self, root: str) -> None:
        self.root = local(root).rstrip("/")

    def states(self, paths: Iterable[str]) -> dict[str, State]:
        """The state of every path; nothing is read."""
        return {path: self._state(path) for path in paths}

    def _state(self, path: str) -> State:
        try:
            stat = os.stat(f"{self.root}/{path}")
        except (OSError, ValueError):
            return MISSING
        return State(stat.st_size, str(stat.st_mtime_ns))
