"""The first pass over the annotations: which media are wanted, and how their storage describes them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from raypipe.errors import RequestError
from raypipe.media.source import MediaRoot, medium_key
from raypipe.prepare.read import Annotations
from raypipe.prepare.units import Wanted
from raypipe.records import Clip, MediumKind, MediumRef, fingerprint
from raypipe.settings import DatasetSettings, local

STATES_AT_ONCE = 100_000


@dataclass
class Survey:
    """What the annotations mention.

    ``keys`` names every wanted medium by kind and path; ``removed`` holds the paths that the removal list
    takes out, ``removal`` the list's fingerprint.
    """

    media: list[Wanted]
    keys: dict[tuple[MediumKind, str], str]
    samples: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    removed: frozenset[str] = frozenset()
    removal: str = ""

    def fingerprint(self) -> str:
        """Names the set of wanted media."""
        digest = hashlib.blake2b(digest_size=12)
        for key in sorted(m.key for m in self.media):
            digest.update(key.encode())
        return digest.hexdigest()


def survey(settings: DatasetSettings, annotations: Annotations) -> Survey:
    """Reads all annotations once and asks the storage about each medium once; no medium is read.

    Raises:
        RequestError: an annotation file or the removal list cannot be read.
    """
    removed = read_removal(settings.remove)
    out = Survey([], {}, removed=removed, removal=fingerprint(sorted(removed)) if removed else "")
    seen: dict[tuple[MediumKind, str], None] = {}
    for item in annotations:
        if not isinstance(item, Clip):
            out.rejected += 1
        elif not is_removed(item, removed):
            out.samples[modality(item)] += 1
            seen.update(dict.fromkeys((ref.kind, ref.path) for ref in item.media))
    root = MediaRoot(settings.data_root)
    for kind in MediumKind:
        for paths in _chunks(sorted(path for k, path in seen if k is kind)):
            for path, state in root.states(paths).items():
                key = medium_key(kind, path, state)
                out.keys[kind, path] = key
                out.media.append(Wanted(key, kind, path, state.size, state.stamp))
    return out


def is_removed(clip: Clip, removed: frozenset[str]) -> bool:
    return bool(removed) and any(ref.path in removed for ref in clip.media)


def modality(clip: Clip) -> str:
    """ "video", "image", "both" or "text"."""
    kinds = {ref.kind for ref in clip.media}
    return "both" if len(kinds) == 2 else kinds.pop().value if kinds else "text"


def media_keys(clip: Clip, found: Survey) -> list[tuple[MediumRef, str]]:
    return [(ref, found.keys[ref.kind, ref.path]) for ref in clip.media]


def read_removal(file: str | None) -> frozenset[str]:
    """The paths of a removal list: one a line, relative to the data root; ``#`` starts a comment line."""
    if file is None:
        return frozenset()
    try:
        text = Path(local(file)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        why = getattr(fault, "strerror", None) or "not text"
        raise RequestError(
            f"cannot read the removal list {file}: {why}", "name it from here: remove=FILE"
        ) from None
    lines = (line.strip() for line in text.split("\n"))
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _chunks(paths: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(paths)
    while chunk := list(islice(rest, STATES_AT_ONCE)):
        yield chunk
