"""Frames as they are stored: one scaling, one codec, named in the schema of every shard.

Training and evaluation see frames through the same rendition, so that neither sees other pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import Image

from raypipe.settings import Rendition

_JPEG = b"\xff\xd8\xff"
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height in pixels after scaling the shorter side; a smaller picture is not enlarged."""
    short = min(width, height)
    if short_side is None or short <= short_side:
        return width, height
    return max(1, round(width * short_side / short)), max(1, round(height * short_side / short))


def store_frame(picture: Image.Image, rendition: Rendition) -> bytes:
    """An RGB picture as stored bytes: scaled, as JPEG, or as PNG where the rendition is lossless."""
    size = scaled_size(*picture.size, rendition.short_side)
    if size != picture.size:
        picture = picture.resize(size, _FILTERS[rendition.filter])
    out = io.BytesIO()
    if rendition.codec == "lossless":
        picture.save(out, "PNG", compress_level=1)
    else:
        subsampling = 0 if rendition.chroma == "4:4:4" else 2
        picture.save(out, "JPEG", quality=rendition.quality, subsampling=subsampling)
    return out.getvalue()


def load_frame(
    data: bytes | memoryview, room: Callable[[int, int], np.ndarray | None] | None = None
) -> np.ndarray:
    """Stored bytes back as a uint8 array [height, width, 3], RGB.

    Takes any JPEG or PNG, because an image may be stored as the file that it was (see image.py). The usual
    JPEG goes to libjpeg-turbo by the shorter way, which lets other threads run meanwhile; Pillow, whose
    pixels are the same, takes all else and says what is wrong with damaged files.

    Args:
        room: height and width -> where a usual JPEG of that size is put, uint8, contiguous and at least as
            large; None: in new memory. What it holds after anything else is undefined.
    """
    if data[:3] == _JPEG:
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
            if space == "YCbCr":
                return simplejpeg.decode_jpeg(data, "RGB", buffer=room(height, width) if room else None)
        except ValueError:
            pass
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def perceptual_hash(picture: Image.Image) -> str:
    """A 64-bit difference hash in hexadecimal: near-equal pictures differ in few bits."""
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BILINEAR), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    return f"{int(''.join('1' if b else '0' for b in bits), 2):016x}"
