"""The eval root of an evaluation: question files in a folder, media below a root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import RequestError


@dataclass(frozen=True)
class Tree:
    """Where the files of the benchmarks lie.

    Attributes:
        annotations: a local folder with the question files.
        media: the root that media are named below; a folder, or an address.
    """

    annotations: Path
    media: str

    def sizes(self, paths: Sequence[str]) -> dict[str, int]:
        """Bytes of media by path below the root; -1 for one that is not there."""
        return {path: _size(Path(self.media) / path) for path in paths}

    def unpack(self, write: Callable[[Path], int]) -> None:
        """Has a benchmark write the media that lie inside its annotations."""
        write(self.annotations)


def open_tree(eval_root: str) -> Tree:
    """The tree below a root.

    Raises:
        RequestError: there is none.
    """
    if not Path(eval_root).is_dir():
        raise RequestError(
            f"no such eval root: {eval_root}",
            "set eval_root=... to the folder laid out as the reference's eval/",
        )
    return Tree(Path(eval_root), eval_root)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        return -1  # missing, or no path at all: the decoder says which
