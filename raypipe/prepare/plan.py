"""The plan of a prepare run: which media there are, and which unit of work decodes which of them.

Units are made from the names of the media alone, so the same input gives the same shards whatever
the number of workers, the order in which they finish, or the number of times they were killed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from raypipe.media.decode import DecodeRequest
from raypipe.records import Clip, MediumRef, fingerprint
from raypipe.settings import DatasetSettings, identity, local


@dataclass(frozen=True)
class Unit:
    """A group of media that is decoded, stored and committed together."""

    id: str
    requests: tuple[DecodeRequest, ...]

    def pack(self) -> str:
        """As text, to travel through Ray Data without being pickled."""
        return _UNIT().dump_json(self).decode()

    @classmethod
    def unpack(cls, text: str) -> Unit:
        return _UNIT().validate_json(text)


@cache
def _UNIT() -> TypeAdapter[Unit]:
    return TypeAdapter(Unit)


def medium_key(root: Path, ref: MediumRef) -> str:
    """Names a medium by kind, path, size and time of change, without reading it."""
    try:
        stat = (root / ref.path).stat()
        state = (stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError):
        state = (-1, -1)  # missing, or no path at all: the decoder says which
    return fingerprint(ref.kind, ref.path, *state)


def plan(settings: DatasetSettings, clips: Iterable[Clip]) -> tuple[dict[MediumRef, str], list[Unit]]:
    """The key of every medium that the clips mention, and the units that decode each of them once."""
    root = Path(local(settings.data_root))
    keys = {ref: medium_key(root, ref) for clip in clips for ref in clip.media}
    buckets: dict[int, list[DecodeRequest]] = {}
    count = max(1, math.ceil(len(keys) / settings.media_per_shard))
    for ref, key in sorted(keys.items(), key=lambda item: item[1]):
        request = DecodeRequest(
            key=key,
            kind=ref.kind,
            root=str(root),
            path=ref.path,
            sampling=settings.sampling,
            rendition=settings.rendition,
            decoder=settings.decoder,
            max_pixels=settings.limits.max_pixels,
        )
        buckets.setdefault(int(key[:12], 16) % count, []).append(request)
    how = identity(settings)
    units = [Unit(fingerprint(how, [r.key for r in rs]), tuple(rs)) for _, rs in sorted(buckets.items())]
    return keys, units
