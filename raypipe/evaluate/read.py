"""Reads the media of a unit, in the same sandbox and rendition as training."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
from PIL import Image

from raypipe.evaluate.plan import Unit
from raypipe.media.decode import DecodeRequest
from raypipe.media.sandbox import Sandbox
from raypipe.records import MEDIA_SCHEMA, Medium, MediumKind, Rejection, media_of, rejections_of, to_table
from raypipe.settings import DecodeLimits
from raypipe.store.shards import encode

THUMB_PX = 96


def read_media(unit: Unit, root: str, limits: DecodeLimits) -> dict[str, Medium | Rejection]:
    """Every medium of a unit by its path below the eval root, or the reason why it cannot be shown."""
    out: dict[str, Medium | Rejection] = {}
    with Sandbox(limits) as sandbox:
        for group in unit.groups:
            if group.medium is None:
                continue
            request = DecodeRequest(
                key=group.medium.path,
                kind=group.medium.kind,
                root=root,
                path=group.medium.path,
                sampling=unit.asking.sampling,
                rendition=unit.asking.rendition,
                max_pixels=limits.max_pixels,
            )
            result = sandbox.decode(request)
            if isinstance(result, Medium) and unit.asking.control == "repeat_frame":
                result = repeat_one_frame(result)
            out[group.medium.path] = result
    return out


def pack_media(media: dict[str, Medium | Rejection]) -> dict[str, Any]:
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
