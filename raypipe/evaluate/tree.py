"""The eval root of an evaluation: question files in a folder, media below a root."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import RequestError
from raypipe.eval_mirror import EvalMirror, open_mirror


@dataclass(frozen=True)
class Tree:
    """Where the files of the benchmarks lie.

    Attributes:
        annotations: a local folder with the question files; of a remote root its mirror, where media have
            their names and sizes and no content.
        media: the root that media are named below; a folder, or an address.
    """

    annotations: Path
    media: str
    mirror: EvalMirror | None = None

    def sizes(self, paths: Sequence[str]) -> dict[str, int]:
        """Bytes of media by path below the root; -1 for one that is not there."""
        return {path: _size(self.annotations / path) for path in paths}

    def unpack(self, write: Callable[[Path], int], folder: str) -> None:
        """Has a benchmark write the media that lie inside its annotations; they go where the media are."""
        write(self.annotations)
        if self.mirror is not None:
            self.mirror.publish(folder)

    def said(self, path: str) -> str:
        """A path below the annotations as a person knows it."""
        return self.mirror.said(path) if self.mirror else path

    def named(self) -> contextlib.AbstractContextManager[None]:
        """Errors of the block name the root that was given."""
        return self.mirror.named() if self.mirror else contextlib.nullcontext()


def open_tree(eval_root: str, folders: Callable[[], Iterable[str]] = tuple) -> Tree:
    """The tree below a root.

    Args:
        folders: what is needed of it; asked for only where the root is remote.

    Raises:
        RequestError: there is none.
        ServiceError: the storage refused.
    """
    if "://" in eval_root:
        mirror = open_mirror(eval_root, folders())
        return Tree(mirror.path, mirror.root, mirror)
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
