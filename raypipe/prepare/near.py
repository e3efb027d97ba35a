"""A medium that is not there: which one may have been meant."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import fsspec

from raypipe.settings import local

MAX_NAMES = 200_000  # a larger folder is not listed: one listing must not cost more than reading on
MAX_COMPARED = 200  # names that are compared letter by letter


@dataclass(frozen=True)
class _Folder:
    """The names in a folder: as they are, and by small letters with and without what follows the last dot."""

    names: tuple[str, ...]
    have: frozenset[str]
    small: dict[str, str] = field(default_factory=dict)
    stems: dict[str, str] = field(default_factory=dict)


def nearest_medium(root: str, path: str) -> str:
    """What to say of a medium that is missing below a root: "did you mean ...?", no such folder, or nothing.

    Looks for a name in other letter case or with another suffix, then, in small folders, for a similar one.
    Each folder is listed once in a process.
    """
    pure = PurePosixPath(path)
    if not path or "\0" in path or "://" in path or pure.is_absolute() or ".." in pure.parts:
        return ""
    root, above = local(root).rstrip("/"), ""
    for part in pure.parts:
        folder = _list(root, above)
        if folder is None:
            return ""
        if part not in folder.have:
            return _say(root, above, part, folder, pure)
        above = f"{above}/{part}" if above else part
    return ""


def forget() -> None:
    """Forgets the folders that were listed."""
    _list.cache_clear()


def _say(root: str, above: str, part: str, folder: _Folder, path: PurePosixPath) -> str:
    before = PurePosixPath(above).parts
    rest = path.parts[len(before) + 1 :]
    meant = _like(part, folder, file=not rest)
    full = "/".join([*before, meant, *rest])
    if meant and (not rest or _is_there(root, full)):
        return f"did you mean '{full}'?"
    if not rest:
        return ""
    if not above and part == root.rpartition("/")[2]:
        return f"no folder '{part}' in {root}: data_root may be one folder too deep"
    return f"no folder '{'/'.join([*before, part])}'"


def _is_there(root: str, path: str) -> bool:
    above, _, name = path.rpartition("/")
    folder = _list(root, above)
    return folder is not None and name in folder.have


def _like(name: str, folder: _Folder, file: bool) -> str:
    small = name.lower()
    found = folder.small.get(small) or (folder.stems.get(PurePosixPath(small).stem) if file else None)
    if found is None and len(folder.names) <= MAX_COMPARED:
        found = next(iter(difflib.get_close_matches(name, folder.names, n=1, cutoff=0.85)), None)
    return found if found and found != name else ""


@lru_cache(maxsize=64)
def _list(root: str, below: str) -> _Folder | None:
    names = _names(f"{root}/{below}" if below else root)
    if names is None or len(names) > MAX_NAMES:
        return None
    folder = _Folder(tuple(sorted(names)), frozenset(names))
    for name in reversed(folder.names):  # of several that fit, the first in the alphabet
        folder.small[name.lower()] = name
        folder.stems[PurePosixPath(name.lower()).stem] = name
    return folder


def _names(where: str) -> list[str] | None:
    try:
        if "://" not in where:
            names: list[str] = []
            with os.scandir(where) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if len(names) > MAX_NAMES:
                        break
            return names
        fs: Any = fsspec.core.url_to_fs(where)[0]
        return [str(e).rstrip("/").rpartition("/")[2] for e in fs.ls(where, detail=False)]
    except Exception:  # whatever the storage says: a hint is not worth a failed run
        return None
