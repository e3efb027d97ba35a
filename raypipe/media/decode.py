"""One medium: a file -> stored frames with their times, or a typed reason why not.

This code runs in a child process (see sandbox.py); it raises ``MediumError`` for anything wrong
with the file and never returns a frame that the decoder says may be wrong. (Damage that still decodes
without complaint is beyond any decoder: few codecs carry a checksum.)
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from raypipe.media.fault import MediumError as MediumError
from raypipe.media.image import image_frame, read_image
from raypipe.media.rendition import load_frame, perceptual_hash, store_frame
from raypipe.media.sampling import positions
from raypipe.media.source import MediaRoot, State
from raypipe.records import Medium, MediumKind, Reason
from raypipe.settings import Rendition, Sampling

# Containers that hold their pictures themselves. A playlist (HLS, ffconcat) would open other files.
FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "gif", "apng", "webp_anim"),
    *("mpeg", "mpegts", "mpegvideo", "flv", "live_flv", "asf", "ogg", "ivf", "h264", "hevc", "obu", "m4v"),
)


@dataclass(frozen=True)
class Picture:
    """A sampled frame: position in the stream, time in seconds, RGB, what the decoder says of it."""

    position: int
    time_s: float
    image: Image.Image
    evidence: str = "clean"


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


def read_video(file: Path, request: DecodeRequest) -> Iterator[Picture]:
    """The sampled frames of a video in presentation order, a repeated position repeated."""
    reader = _read_with_decord if request.decoder == "decord" else _read_with_pyav
    return reader(file, request)


def _read_with_pyav(file: Path, request: DecodeRequest) -> Iterator[Picture]:
    import av  # the child process alone pays for it

    try:
        with contextlib.closing(_open_video(file)) as container:
            count = _count_frames(container)
        wanted = positions(count, request.sampling)
        with contextlib.closing(_open_video(file)) as container:
            found = _walk(container, set(wanted), request.max_pixels)
    except MemoryError:  # FFmpeg's is an FFmpegError too
        raise
    except (av.FFmpegError, OSError, ValueError, IndexError) as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, f"{type(fault).__name__}: {str(fault)[:160]}") from None
    missing = [p for p in wanted if p not in found]
    if missing:
        got, of = len(set(wanted)) - len(set(missing)), len(set(wanted))
        raise MediumError(Reason.MEDIA_TRUNCATED, f"{got} of {of} sampled frames are there; {count} promised")
    return iter([Picture(p, *found[p]) for p in wanted])


def _open_video(file: Path):
    """A container over an open file, of a known format: no protocol or playlist can lead anywhere else."""
    import av

    return _Closing(av, file)


class _Closing:
    """An av container together with the file object it reads."""

    def __init__(self, av, file: Path) -> None:
        self._file = open(file, "rb")  # noqa: SIM115 - closed with the container
        try:
            self._container = av.open(
                self._file, metadata_errors="ignore", options={"format_whitelist": ",".join(FORMATS)}
            )
        except BaseException:
            self._file.close()
            raise
        if not self._container.streams.video:
            self.close()
            raise MediumError(Reason.MEDIA_NO_VIDEO, "no video stream")
        self.stream = self._container.streams.video[0]
        self.demux, self.decode = self._container.demux, self._container.decode

    def close(self) -> None:
        self._container.close()
        self._file.close()


def _count_frames(container: _Closing) -> int:
    """Frames in the stream, counted packet by packet (no decoding): headers may lie or be silent."""
    count = sum(1 for packet in container.demux(container.stream) if packet.size and not packet.is_discard)
    if count < 1:
        raise MediumError(Reason.MEDIA_NO_VIDEO, "the video stream has no frames")
    return count


def _walk(container: _Closing, wanted: set[int], max_pixels: int) -> dict[int, tuple[float, Image.Image]]:
    """One forward pass to the last wanted frame; damage anywhere before it taints what follows."""
    container.stream.thread_type = "SLICE"
    container.stream.codec_context.thread_count = 1
    found: dict[int, tuple[float, Image.Image]] = {}
    last = max(wanted)
    start: float | None = None
    for position, frame in enumerate(container.decode(container.stream)):
        if frame.is_corrupt:
            raise MediumError(Reason.FRAMES_DAMAGED, f"the decoder marks frame {position} as damaged")
        if frame.width * frame.height > max_pixels:
            raise MediumError(Reason.VIDEO_TOO_LARGE, f"{frame.width}x{frame.height} pixels")
        start = frame.time if start is None else start
        if position in wanted:
            time = (frame.time or 0.0) - (start or 0.0)
            found[position] = (time, _upright(frame))
        if position >= last:
            break
    return found


def _upright(frame) -> Image.Image:
    picture = frame.to_image()
    turn = round(getattr(frame, "rotation", 0) or 0) % 360
    return picture.rotate(turn, expand=True) if turn else picture


def _read_with_decord(file: Path, request: DecodeRequest) -> Iterator[Picture]:
    import decord

    try:
        _open_video(file).close()  # decord takes a path, and follows playlists
    except (OSError, ValueError, IndexError) as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, f"{type(fault).__name__}: {str(fault)[:160]}") from None
    try:
        reader = decord.VideoReader(str(file), num_threads=1)
        wanted = positions(len(reader), request.sampling)
        frames = reader.get_batch(list(wanted)).asnumpy()
        times = reader.get_frame_timestamp(list(wanted))[:, 0]
    except (decord.DECORDError, RuntimeError, ValueError) as fault:
        first = str(fault).strip().splitlines()[-1] if str(fault).strip() else "no message"
        raise MediumError(Reason.MEDIA_UNREADABLE, f"decord: {first[:160]}") from None
    shown = zip(wanted, times, frames, strict=True)
    return iter([Picture(p, float(t), Image.fromarray(f)) for p, t, f in shown])


def _sha256(file: Path) -> str:
    try:
        with open(file, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, str(fault)[:200]) from None
