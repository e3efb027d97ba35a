"""Reads the media of a unit, in the same sandbox and rendition as training."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from PIL import Image

from raypipe.evaluate.attempts import Attempt
from raypipe.evaluate.plan import Unit
from raypipe.evaluate.prepared import PreparedFrames
from raypipe.media.decode import DecodeRequest
from raypipe.media.sandbox import Sandbox, shared_sandbox
from raypipe.model.pictures import ready
from raypipe.model.pixels import Look
from raypipe.records import (
    MEDIA_SCHEMA,
    THUMBS_SCHEMA,
    Medium,
    MediumKind,
    MediumRef,
    Reason,
    Rejection,
    media_of,
    rejections_of,
    to_table,
)
from raypipe.settings import DecodeLimits
from raypipe.store.files import Store
from raypipe.store.shards import encode

THUMBS = "thumbs"
THUMB_PX = 96
PREPARED = "raypipe.prepared"  # in a thumbs file: how many of its media came out of a prepare run


@dataclass(frozen=True)
class Reader:
    """Reads the media of units: what comes before the model, on CPUs of any node.

    Attributes:
        store: the run, which keeps a strip of small pictures for each medium.
        root: the root that media are named below; a folder, or an address.
        prepared: prepare runs whose frames are taken where they hold a medium as it would be decoded.
        look: how the model takes pictures, which are made ready for it here; None: they stay as stored.
    """

    store: Store
    root: str
    limits: DecodeLimits
    prepared: tuple[str, ...] = ()
    look: Look | None = None

    def __call__(self, unit: Unit, attempt: Attempt | None = None) -> dict[str, Medium | Rejection]:
        """Every medium of a unit by its path below the root, or the reason why it cannot be shown."""
        requests = list(self._requests(unit))
        held = self._held([request for _, request in requests])
        left = [(place, request) for place, request in requests if request.path not in held]
        if attempt is not None and attempt.alone:
            media = self._one_by_one(unit, attempt, left)
        else:
            media = self._read([request for _, request in left])
        media |= held
        if unit.asking.control == "repeat_frame":
            media = {p: repeat_one_frame(m) if isinstance(m, Medium) else m for p, m in media.items()}
        self.store.put_new(f"{THUMBS}/{unit.id}.arrow", thumbs_of(media, len(held)))
        if self.look is None:
            return media
        look = replace(self.look, aspect=unit.asking.aspect)
        return {p: made_ready(m, look) if isinstance(m, Medium) else m for p, m in media.items()}

    def _held(self, requests: Sequence[DecodeRequest]) -> dict[str, Medium | Rejection]:
        """The media that prepare runs hold."""
        if not self.prepared:
            return {}
        frames = PreparedFrames(self.prepared, self.root)
        found: dict[str, Medium | Rejection] = {}
        for r in requests:
            medium = frames.find(MediumRef(r.kind, r.path), r.sampling, r.rendition)
            if medium is not None:
                found[r.path] = medium
        return found

    def _read(self, requests: Sequence[DecodeRequest]) -> dict[str, Medium | Rejection]:
        return {result.path: result for result in self._sandbox().decode_all(requests)}

    def _sandbox(self) -> Sandbox:
        """The decoding child of this worker, which stays for many units."""
        return shared_sandbox(self.limits)

    def _one_by_one(
        self, unit: Unit, attempt: Attempt, requests: Sequence[tuple[int, DecodeRequest]]
    ) -> dict[str, Medium | Rejection]:
        media: dict[str, Medium | Rejection] = {}
        for place, request in requests:
            if place in attempt.harmful:
                said = "the process that reads it was ended by it, or by too little memory beside it"
                media[request.path] = Rejection(
                    request.key, "medium", Reason.DECODER_CRASHED, said, request.path
                )
            else:
                attempt.begins(place)
                media |= self._read([request])
        attempt.begins(len(unit.groups))
        return media

    def _requests(self, unit: Unit) -> Iterator[tuple[int, DecodeRequest]]:
        for place, group in enumerate(unit.groups):
            if group.medium is not None:
                yield place, request_of(group.medium, unit, self.root, self.limits)


def request_of(medium: MediumRef, unit: Unit, root: str, limits: DecodeLimits) -> DecodeRequest:
    return DecodeRequest(
        key=medium.path,
        kind=medium.kind,
        root=root,
        path=medium.path,
        sampling=unit.asking.sampling,
        rendition=unit.asking.rendition,
        max_pixels=limits.max_pixels,
    )


def pack_media(media: Mapping[str, Medium | Rejection]) -> dict[str, Any]:
    """Media as plain columns: an Arrow file of the good ones, JSON of the rest."""
    good = [m for m in media.values() if isinstance(m, Medium)]
    bad = [m.row() for m in media.values() if isinstance(m, Rejection)]
    return {"media": encode(to_table(good, MEDIA_SCHEMA)), "rejected": json.dumps(bad)}


def unpack_media(row: dict[str, Any]) -> dict[str, Medium | Rejection]:
    with pa.ipc.open_file(pa.BufferReader(row["media"])) as reader:
        good = media_of(reader.read_all().to_pylist())
    bad = rejections_of(json.loads(row["rejected"]))
    return {**{m.path: m for m in good}, **{r.path: r for r in bad}}


def repeat_one_frame(medium: Medium) -> Medium:
    """A control: every frame of a video replaced by one of them, chosen by the content of the file.

    A model that still answers a question about change over time did not get it from the frames.
    """
    if medium.kind is not MediumKind.VIDEO:
        return medium
    count = len(medium.frames)
    chosen = int(hashlib.sha256(medium.sha256.encode()).hexdigest(), 16) % count
    return replace(
        medium,
        frames=(medium.frames[chosen],) * count,
        pts_s=(medium.pts_s[chosen],) * count,
        frame_index=(medium.frame_index[chosen],) * count,
    )


def made_ready(medium: Medium, look: Look) -> Medium:
    """A medium with its frames as the model takes them; one with a damaged frame is left to the engine."""
    try:
        return replace(medium, frames=ready(look, medium.frames, medium.kind))
    except (OSError, ValueError):
        return medium


def thumbs_of(media: Mapping[str, Medium | Rejection], prepared: int = 0) -> bytes:
    """The small pictures of a unit's media as an Arrow file; it says how many media were not decoded."""
    rows = [
        {"medium": path, "frames": list(thumbnails(m)), "pts_s": list(m.pts_s)}
        for path, m in media.items()
        if isinstance(m, Medium)
    ]
    table = pa.Table.from_pylist(rows, schema=THUMBS_SCHEMA)
    return encode(table, {PREPARED: str(prepared)} if prepared else None)


def thumbnails(medium: Medium) -> tuple[bytes, ...]:
    """Small JPEG pictures of the frames the model was shown, for the report."""
    done: dict[bytes, bytes] = {}
    for frame in medium.frames:
        if frame in done:
            continue
        with Image.open(io.BytesIO(frame)) as picture:
            small = picture.convert("RGB")
            small.thumbnail((THUMB_PX, THUMB_PX))
            out = io.BytesIO()
            small.save(out, "JPEG", quality=80)
        done[frame] = out.getvalue()
    return tuple(done[f] for f in medium.frames)
