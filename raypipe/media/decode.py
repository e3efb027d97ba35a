"""One medium: a file -> stored frames with their times, or a typed reason why not.

This code runs in a child process (see sandbox.py); it raises ``MediumError`` for anything wrong
with the file and never returns a frame that the decoder says may be wrong. (Damage that still decodes
without complaint is beyond any decoder: few codecs carry a checksum.)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from raypipe.media.fault import MediumError as MediumError
from raypipe.media.image import image_frame, read_image
from raypipe.media.pulse import beat
from raypipe.media.rendition import load_frame, perceptual_hash, store_frame
from raypipe.media.sampling import Part
from raypipe.media.source import MediaRoot, State
from raypipe.records import Medium, MediumKind, Reason
from raypipe.settings import Rendition, Sampling


@dataclass(frozen=True)
class DecodeRequest:
    """One medium to decode: where it lies below which root, and how it is to be sampled and stored.

    ``size`` and ``stamp`` are what was planned (bytes; ETag or time of change); -1 and "" ask for no check.
    ``middle_of`` asks for one frame, from the middle of a part of the video, in place of the sampling.
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
    middle_of: Part | None = None


def decode(request: DecodeRequest) -> Medium:
    """Reads, samples and encodes one medium.

    Raises:
        MediumError: with the reason to quarantine it for.
        ServiceError: the storage fails.
        MemoryError: the medium needs more memory than there is.
    """
    with MediaRoot(request.root).local_file(request.path, State(request.size, request.stamp)) as file:
        digest = _sha256(file)
        made = _decode_image if request.kind is MediumKind.IMAGE else _decode_video
        return made(file, digest, request)


def _decode_image(file: Path, digest: str, request: DecodeRequest) -> Medium:
    picture = read_image(file, request.max_pixels)
    frame = image_frame(file, picture, request.rendition)
    return _medium(request, digest, {0: frame}, [(0, 0.0, "clean")], picture.size)


def _decode_video(file: Path, digest: str, request: DecodeRequest) -> Medium:
    """One frame at a time: what stays of a picture is its stored bytes, however large it is."""
    from raypipe.media.video import read_video  # FFmpeg: the child process alone pays for it

    done: dict[int, bytes] = {}  # position -> stored frame; a short video repeats positions
    shown: list[tuple[int, float, str]] = []
    size = (0, 0)
    for picture in read_video(file, request):
        if picture.position not in done:
            done[picture.position] = store_frame(picture.image, request.rendition)
        if not shown:
            size = picture.image.size
        shown.append((picture.position, round(picture.time_s, 6), picture.evidence))
        del picture  # before the reader makes the next one
    return _medium(request, digest, done, shown, size)


def _medium(
    request: DecodeRequest,
    digest: str,
    stored: dict[int, bytes],
    shown: list[tuple[int, float, str]],
    size: tuple[int, int],
) -> Medium:
    """A row of the frames shown: their position (a key of ``stored``), time in seconds and evidence."""
    middle = stored[shown[len(shown) // 2][0]]
    return Medium(
        key=request.key,
        kind=request.kind,
        path=request.path,
        sha256=digest,
        frames=tuple(stored[position] for position, _, _ in shown),
        pts_s=tuple(time for _, time, _ in shown),
        frame_index=tuple(position for position, _, _ in shown),
        evidence=tuple(evidence for _, _, evidence in shown),
        width=size[0],
        height=size[1],
        phash=perceptual_hash(Image.fromarray(load_frame(middle))),
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(file, "rb", buffering=0) as handle:
            while piece := handle.read(1 << 22):
                digest.update(piece)
                beat()
        return digest.hexdigest()
    except OSError as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, str(fault)[:200]) from None
