"""An image file -> RGB pixels, and its stored frame.

Refused beyond what PIL refuses: a PNG whose checksums are wrong or that ends early, and a JPEG in which
a second decoder finds damage, for PIL shows grey or shifted blocks without a word. The second look costs
half of PIL's own time. Measured over photographs and grain, it finds 83-100 % of the pictures that lost 300
bytes, 35-100 % of those with 4 KiB of zeros, and 2-45 % of those with one wrong bit. JPEG has no checksum:
the rest is beyond any decoder.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from raypipe.media.fault import MediumError
from raypipe.media.rendition import load_frame, scaled_size, store_frame
from raypipe.records import Reason
from raypipe.settings import Rendition

# PIL knows forty more, some of which start other programs (EPS) or are read by code that few look at.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")

_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_PIECE = 1 << 20  # bytes of a PNG read at once


def read_image(file: Path, max_pixels: int) -> Image.Image:
    """An image file as RGB.

    The first frame of an animation; transparency is dropped, as PIL converts it; 16-bit grey is scaled to
    8 bits, where PIL would cut it off at 255. The orientation that EXIF may state is not applied: the
    reference does not apply it either, and models were trained that way.

    Raises:
        MediumError: not an image, larger than ``max_pixels``, or damaged.
        MemoryError: it needs more memory than there is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as picture:
                if picture.width * picture.height > max_pixels:
                    raise MediumError(Reason.IMAGE_TOO_LARGE, f"{picture.width}x{picture.height} pixels")
                form, shown = picture.format, _rgb(picture)
    except (MediumError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise MediumError(Reason.MEDIA_UNREADABLE, "not an image of a known format") from None
    except Image.DecompressionBombError as fault:
        raise MediumError(Reason.IMAGE_TOO_LARGE, str(fault)) from None
    except Exception as fault:  # a decoder may raise anything on hostile bytes
        if "out of memory" in str(fault):
            raise MemoryError(str(fault)) from None
        raise MediumError(Reason.MEDIA_UNREADABLE, f"{type(fault).__name__}: {str(fault)[:160]}") from None
    _check_bytes(file, form or "")
    return shown


def image_frame(file: Path, picture: Image.Image, rendition: Rendition) -> bytes:
    """The stored frame of an image: the file itself where that is exact and not larger, else as any frame.

    Exact means: nothing is scaled, and ``load_frame`` makes the same pixels of the bytes.
    """
    made = store_frame(picture, rendition)
    if scaled_size(*picture.size, rendition.short_side) != picture.size or file.stat().st_size > len(made):
        return made
    data = file.read_bytes()
    if not data.startswith((b"\xff\xd8\xff", _PNG)):
        return made
    try:
        same = np.array_equal(load_frame(data), np.asarray(picture))
    except (OSError, ValueError, SyntaxError):
        return made
    return data if same else made


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise MediumError(Reason.MEDIA_UNREADABLE, f"mode {picture.mode} has no one reading as RGB")
    return picture.convert("RGB")


def _check_bytes(file: Path, form: str) -> None:
    try:
        if form == "PNG":
            _check_png(file)
        elif form in ("JPEG", "MPO"):
            _check_jpeg(file.read_bytes())
    except OSError as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, str(fault)[:200]) from None


def _check_png(file: Path) -> None:
    """Every checksum up to the end mark; PIL does not look at those of the pixels, nor for the end."""
    with open(file, "rb") as data:
        data.seek(len(_PNG))
        kind = b""
        while kind != b"IEND":
            head = data.read(_CHUNK.size)
            if len(head) < _CHUNK.size:
                raise MediumError(Reason.MEDIA_UNREADABLE, "the PNG ends before its end mark")
            left, kind = _CHUNK.unpack(head)
            found = zlib.crc32(kind)
            while left:
                piece = data.read(min(left, _PIECE))
                if not piece:
                    raise MediumError(Reason.MEDIA_UNREADABLE, "the PNG ends before its end mark")
                found, left = zlib.crc32(piece, found), left - len(piece)
            checksum = data.read(4)
            if len(checksum) < 4:
                raise MediumError(Reason.MEDIA_UNREADABLE, "the PNG ends before its end mark")
            if checksum != found.to_bytes(4, "big"):
                name = kind.decode("ascii", "replace")
                raise MediumError(Reason.FRAMES_DAMAGED, f"the checksum of a PNG chunk {name!r} is wrong")


def _check_jpeg(data: bytes) -> None:
    """A second decoder's opinion, for PIL keeps the warnings of its own to itself."""
    import av  # the child process alone pays for it

    context = av.CodecContext.create("mjpeg", "r")
    context.options = {"err_detect": "explode"}
    context.thread_count = 1
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except av.InvalidDataError:
        raise MediumError(Reason.FRAMES_DAMAGED, "the picture data of the JPEG is damaged") from None
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError, OSError):
        return  # a kind of JPEG that this decoder does not know
    if any(frame.is_corrupt for frame in frames):
        raise MediumError(Reason.FRAMES_DAMAGED, "the picture data of the JPEG is damaged")
