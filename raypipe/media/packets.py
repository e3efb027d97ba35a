"""The packets of a video stream before anything is decoded: when each is shown, where decoding can start.

One pass over the file, packet by packet: headers may lie or be silent about the number of frames.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Discard, Disposition

from raypipe.media.evidence import Watch
from raypipe.media.fault import MediumError
from raypipe.media.pulse import beat
from raypipe.records import Reason

# Containers that hold their pictures themselves. A playlist (HLS, ffconcat) would open other files.
FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "gif", "apng", "webp_anim"),
    *("mpeg", "mpegts", "mpegvideo", "flv", "live_flv", "asf", "ogg", "ivf", "h264", "hevc", "obu", "m4v"),
)
# Codecs whose containers mark the frames that stand by themselves. Of any other only the first one counts.
KEYED = frozenset(
    ("h264", "hevc", "vp8", "vp9", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2")
) | frozenset(("msmpeg4", "h263", "flv", "wmv1", "wmv2", "wmv3", "vc1", "theora", "mjpeg", "prores", "ffv1"))
UNKNOWN = np.iinfo(np.int64).min  # a time that the container does not give
_BUFFER = 1 << 16  # bytes a read: what a seek throws away


class OpenVideo:
    """A container over an open file, of a known format: no protocol or playlist can lead anywhere else.

    Args:
        max_pixels: of a picture: checked against the header, and by the decoders before they allocate.

    Raises:
        MediumError: no video stream, too large.
        av.FFmpegError, OSError, ValueError: not a container that can be read.
    """

    def __init__(self, file: Path, max_pixels: int) -> None:
        self._file = open(file, "rb", buffering=0)  # noqa: SIM115 - closed with the container
        options = {"format_whitelist": ",".join(FORMATS), "max_pixels": str(max_pixels)}
        try:
            self.container = av.open(
                self._file, metadata_errors="ignore", options=options, buffer_size=_BUFFER
            )
        except BaseException:
            self._file.close()
            raise
        try:
            self.stream = self._choose(max_pixels)
        except BaseException:
            self.close()
            raise

    def _choose(self, max_pixels: int):
        pictures = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
        if not pictures:
            raise MediumError(Reason.MEDIA_NO_VIDEO, "no video stream")
        for stream in self.container.streams:
            if stream.index != pictures[0].index:
                stream.discard = Discard.all
        context = pictures[0].codec_context
        if context is None:
            raise MediumError(Reason.MEDIA_UNREADABLE, "no decoder for the video stream")
        if context.width * context.height > max_pixels:
            raise MediumError(Reason.VIDEO_TOO_LARGE, f"{context.width}x{context.height} pixels")
        return pictures[0]

    def close(self) -> None:
        self.container.close()
        self._file.close()

    def __enter__(self) -> OpenVideo:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class PacketTable:
    """All packets of the stream in the order of the file.

    Args:
        pts: int64 [packets], in units of ``time_base``; ``UNKNOWN`` where the container is silent.
        size: int64 [packets], bytes.
        start: bool [packets], decoding can start here.
        closed: bool [packets], and nothing from here on knows of what was before.
        shown: bool [packets], a frame comes of it (not cut away by an edit list).
        corrupt: bool [packets], the demuxer says so.
        order: packets in the order of presentation, shown ones only: ``order[position]`` is a packet.
        planned: times are known and unique, so that a frame can be told by its time.
    """

    pts: np.ndarray
    size: np.ndarray
    start: np.ndarray
    closed: np.ndarray
    shown: np.ndarray
    corrupt: np.ndarray
    order: np.ndarray
    planned: bool
    time_base: Fraction

    def times(self) -> np.ndarray:
        """Seconds from the first frame, of each position (float64)."""
        ticks = self.pts[self.order]
        return (ticks - ticks[0]) * float(self.time_base) if len(ticks) else ticks.astype(float)


def read_table(video: OpenVideo, watch: Watch) -> PacketTable:
    """One pass over the packets, without decoding.

    Raises:
        MediumError: cut short, without frames, or a container that is damaged where it cannot be told which
            frames are lost.
    """
    stream = video.stream
    codec = stream.codec_context.codec.name
    look = _Look(codec, length_prefix(codec, stream.codec_context.extradata))
    pts, size, flags = array("q"), array("q"), bytearray()
    name = video.container.format.name
    # Opening reads the first packets. A movie header is no packet; what it lacks the index check tells.
    ended = (watch.fault(only=name) or "") if "mov" not in name else ""
    try:
        with watch:
            for packet in video.container.demux(stream):
                beat()
                if not packet.size:
                    continue
                pts.append(UNKNOWN if packet.pts is None else packet.pts)
                size.append(packet.size)
                flags.append(look(packet))
    except (av.FFmpegError, OSError, ValueError) as fault:
        ended = ended or f"{type(fault).__name__}: {str(fault)[:120]}"
    _check_container(video, watch, len(pts), ended)
    bits = np.frombuffer(flags, np.uint8)
    table = _table(np.array(pts, np.int64), np.array(size, np.int64), bits, stream.time_base)
    if not len(table.order):
        raise MediumError(Reason.MEDIA_NO_VIDEO, "the video stream has no frames")
    return table


def _check_container(video: OpenVideo, watch: Watch, packets: int, ended: str) -> None:
    name, size = video.container.format.name, video.container.size
    said = ended or watch.fault(only=name)
    # The index of these lists every packet. (That of the others lists places to seek to.)
    promised = len(video.stream.index_entries) if "mov" in name or name == "avi" else packets
    if name == "avi":
        promised = max(promised, video.stream.frames)
    if promised != packets:  # samples without bytes are no packets
        promised -= sum(not entry.size for entry in video.stream.index_entries)
    if promised > packets:
        raise MediumError(Reason.MEDIA_TRUNCATED, f"{packets} of {promised} frames are there")
    if promised < packets:
        raise MediumError(Reason.FRAMES_DAMAGED, f"{packets} frames are there, the index has {promised}")
    if name == "mpegts" and all(size % length for length in (188, 192, 204)):
        raise MediumError(Reason.MEDIA_TRUNCATED, f"{size} bytes are no whole number of transport packets")
    if said:
        cut = any(word in said for word in ("partial file", "prematurely", "truncat"))
        raise MediumError(Reason.MEDIA_TRUNCATED if cut else Reason.FRAMES_DAMAGED, said)


def _table(pts: np.ndarray, size: np.ndarray, bits: np.ndarray, time_base: Fraction) -> PacketTable:
    # Whether a packet of VP8 or VP9 shows a frame stands in its first byte, which may be damaged: decode.
    hides = bool((bits & 16).any())
    start, shown, corrupt, closed = ((bits & bit) > 0 for bit in (1, 2, 4, 8))
    visible = np.flatnonzero(shown)
    order = visible[np.argsort(pts[visible], kind="stable")]
    ticks = pts[order]
    known = bool(len(ticks)) and bool((pts != UNKNOWN).all()) and bool((np.diff(ticks) > 0).all())
    # Frames shown before the first start depend on what is not in the file: a decoder drops them.
    planned = known and bool(start[0]) and pts[0] <= ticks[0] and not hides
    return PacketTable(pts, size, start, closed, shown, corrupt, order, bool(planned), time_base)


class _Look:
    """What a packet says of itself: decoding can start here (1), shown (2), corrupt (4), closed (8),
    hidden by its own word (16)."""

    def __init__(self, codec: str, prefix: int) -> None:
        self._codec, self._prefix, self._first = codec, prefix, True

    def __call__(self, packet) -> int:
        bits = 2 * (not packet.is_discard) | 4 * bool(packet.is_corrupt)
        if self._codec in ("vp8", "vp9"):
            data = memoryview(packet)
            key, shown = _vp8(data) if self._codec == "vp8" else _vp9(data)
            return bits | 9 * (key and packet.is_keyframe) | 16 * (not shown)
        if not packet.is_keyframe:
            return bits
        first, self._first = self._first, False
        return bits | (9 * first if self._codec not in KEYED else self._starts(packet))

    def _starts(self, packet) -> int:
        if self._codec == "h264":
            return _starts_h264(bytes(packet), self._prefix)
        if self._codec == "hevc":
            return _starts_hevc(bytes(packet), self._prefix)
        return 9


def length_prefix(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length before each NAL unit; 0 for start codes and for codecs that have none."""
    if not extradata or extradata[0] != 1:
        return 0
    if codec == "h264" and len(extradata) > 4:
        return (extradata[4] & 3) + 1
    if codec == "hevc" and len(extradata) > 21:
        return (extradata[21] & 3) + 1
    return 0


def nal_units(data: bytes, prefix: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each NAL unit of a packet; an end beyond the packet is a unit that was damaged."""
    place = 0
    while prefix and place + prefix < len(data):
        begin = place + prefix
        place = begin + int.from_bytes(data[place:begin], "big")
        yield begin, place
    if not prefix:
        begin = data.find(b"\0\0\1") + 3
        while begin >= 3:
            following = data.find(b"\0\0\1", begin)
            yield begin, following if following >= 0 else len(data)
            begin = following + 3


def _starts_h264(data: bytes, prefix: int) -> int:
    """An IDR picture, or an intra picture that says that all after it is right (recovery count 0)."""
    recovered = False
    for begin, end in nal_units(data, prefix):
        kind = data[begin] & 31 if begin < len(data) else 0
        if kind == 6:
            recovered = recovered or _recovers_at_once(data[begin + 1 : end])
        elif 1 <= kind <= 5:
            return 9 if kind == 5 else int(kind == 1 and recovered)
    return 0


def _recovers_at_once(message: bytes) -> bool:
    """Whether SEI messages hold a recovery point with a frame count of 0 (a single 1 bit)."""
    place = 0
    while place + 2 < len(message):
        kind = size = 0
        while place < len(message) and message[place] == 255:
            kind, place = kind + 255, place + 1
        kind, place = kind + message[place : place + 1].ljust(1)[0], place + 1
        while place < len(message) and message[place] == 255:
            size, place = size + 255, place + 1
        size, place = size + message[place : place + 1].ljust(1)[0], place + 1
        if kind == 6:
            return place < len(message) and message[place] >= 128
        place += size
    return False


def _starts_hevc(data: bytes, prefix: int) -> int:
    """IRAP pictures: IDR (closed), CRA and BLA."""
    for begin, _ in nal_units(data, prefix):
        kind = data[begin] >> 1 & 63 if begin < len(data) else 63
        if kind < 32:
            return 9 if kind in (19, 20) else int(16 <= kind <= 21)
    return 0


def _vp8(data: memoryview) -> tuple[bool, bool]:
    return not data[0] & 1, bool(data[0] & 16)


def _vp9(data: memoryview) -> tuple[bool, bool]:
    """Key and shown, from the first bits of the frame header; a superframe always shows one of its frames."""
    head = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]  # profile 3 has one bit more
    repeats = bool(head & 8)  # shows a frame decoded before
    return not repeats and not head & 4, repeats or bool(head & 2) or data[-1] & 0xE0 == 0xC0
