"""One medium: a file -> stored frames with their times, or a typed reason why not.

This code runs in a child process (see sandbox.py); it raises ``MediumError`` for anything wrong
with the file and never returns a frame that the decoder says may be wrong. (Damage that still decodes
without complaint is beyond any decoder: few codecs carry a checksum.)
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, UnidentifiedImageError

from raypipe.media.fault import MediumError as MediumError
from raypipe.media.rendition import perceptual_hash, store_frame
from raypipe.records import Medium, MediumKind, Reason
from raypipe.settings import Rendition, Sampling

if TYPE_CHECKING:
    from raypipe.media.video import Picture


@dataclass(frozen=True)
class DecodeRequest:
    """One medium to decode: where it lies below which root, and how it is to be sampled and stored.

    ``size`` and ``stamp`` are what was planned (bytes; ETag or time of change); -1 and "" ask for no check.
    """

    key: str
    kind: MediumKind
    root: str
    path: str
    sampling: Sampling
    rendition: Rendition
    decoder: str = "pyav"
    max_pixels: int = 100_000_000
    size: int = -1
    stamp: str = ""


def decode(request: DecodeRequest) -> Medium:
    """Reads, samples and encodes one medium.

    Raises:
        MediumError: with the reason to quarantine it for.
    """
    from raypipe.media.video import Picture, read_video  # the child process alone pays for libav

    file = resolve(request.root, request.path)
    digest = _sha256(file)
    if request.kind is MediumKind.IMAGE:
        pictures = [Picture(0, 0.0, read_image(file, request.max_pixels), "clean")]
    else:
        pictures = list(read_video(file, request))
    width, height = pictures[0].image.size
    frames = _encode_once(pictures, request.rendition)
    return Medium(
        key=request.key,
        kind=request.kind,
        path=request.path,
        sha256=digest,
        frames=frames,
        pts_s=tuple(round(p.time_s, 6) for p in pictures),
        frame_index=tuple(p.position for p in pictures),
        evidence=tuple(p.evidence for p in pictures),
        width=width,
        height=height,
        phash=perceptual_hash(pictures[len(pictures) // 2].image),
    )


def resolve(root: str, path: str) -> Path:
    """The file below the media root that a record names.

    Only regular files inside the root are opened: no absolute path, no ``..``, no link that leads out.
    """
    if "://" in path or os.path.isabs(path) or ".." in Path(path).parts or "\0" in path:
        raise MediumError(Reason.MEDIA_OUTSIDE_ROOT, f"{path!r} is not a path below the media root")
    base = Path(root).resolve()
    file = base / path
    try:
        real = file.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise MediumError(Reason.MEDIA_MISSING, "no such file") from None
    except (OSError, RuntimeError, UnicodeError) as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, str(fault)[:200]) from None
    if not real.is_relative_to(base):
        raise MediumError(Reason.MEDIA_OUTSIDE_ROOT, "a link leads out of the media root")
    if not real.is_file():
        raise MediumError(Reason.MEDIA_UNREADABLE, "not a regular file")
    if real.stat().st_size == 0:
        raise MediumError(Reason.MEDIA_EMPTY, "the file has no bytes")
    return real


def read_image(file: Path, max_pixels: int) -> Image.Image:
    """An image file as RGB; the first frame of an animation; transparency on black, as PIL converts it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as picture:
                if picture.width * picture.height > max_pixels:
                    raise MediumError(Reason.IMAGE_TOO_LARGE, f"{picture.width}x{picture.height} pixels")
                return picture.convert("RGB")
    except MediumError:
        raise
    except UnidentifiedImageError:
        raise MediumError(Reason.MEDIA_UNREADABLE, "not an image that PIL knows") from None
    except Image.DecompressionBombError as fault:
        raise MediumError(Reason.IMAGE_TOO_LARGE, str(fault)) from None
    except (OSError, ValueError, SyntaxError, EOFError) as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, str(fault)[:200]) from None


def _encode_once(pictures: list[Picture], rendition: Rendition) -> tuple[bytes, ...]:
    done: dict[int, bytes] = {}
    for picture in pictures:
        if picture.position not in done:
            done[picture.position] = store_frame(picture.image, rendition)
    return tuple(done[p.position] for p in pictures)


def _sha256(file: Path) -> str:
    try:
        with open(file, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, str(fault)[:200]) from None
