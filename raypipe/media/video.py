"""A video file -> the sampled frames, one at a time, each the frame that a plain sequential decode gives.

The packets are planned first (packets.py): for each wanted frame the start its decoding begins from. Then one
walk forward seeks over what no wanted frame needs and skips the frames that none refers to. Whatever speaks
against a frame, anywhere from its start to itself, is raised (evidence.py); a container without
usable times is decoded from its first frame to the last wanted one.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from raypipe.media.evidence import Watch, too_large
from raypipe.media.fault import MediumError
from raypipe.media.feed import Damaged, Feed, read
from raypipe.media.packets import UNKNOWN, OpenVideo, PacketTable, read_table
from raypipe.media.sampling import choose, middle_position
from raypipe.records import Reason

if TYPE_CHECKING:
    from raypipe.media.decode import DecodeRequest

# Codecs whose frames to which none refers are skipped exactly (tests/media/test_codec_matrix.py).
SKIPPING = frozenset(("h264", "hevc", "mpeg4", "mpeg2video"))
_NEAR = 24  # packets that are read over rather than sought over


@dataclass(frozen=True)
class Picture:
    """One frame as it is shown, upright.

    Args:
        position: of the frame in the stream, in the order of presentation.
        time_s: seconds from the first frame.
        image: RGB.
        evidence: "clean": nothing speaks against it. Anything else is raised, never returned.
    """

    position: int
    time_s: float
    image: Image.Image
    evidence: str


def read_video(file: Path, request: DecodeRequest) -> Iterator[Picture]:
    """The sampled frames in presentation order, one at a time; a repeated position is repeated.

    Raises:
        MediumError: for whatever is wrong, also after the first frames came out.
    """
    try:
        if request.decoder == "decord":
            yield from _read_with_decord(file, request)
            return
        with Video(file, request) as video:
            for position, time, frame in video.frames():
                picture = Picture(position, time, video.upright(frame), "clean")
                del frame
                for _ in range(video.repeats[position]):
                    yield picture
    except MemoryError:  # FFmpeg's is an FFmpegError too
        raise
    except (av.FFmpegError, OSError, ValueError, IndexError) as fault:
        raise MediumError(Reason.MEDIA_UNREADABLE, f"{type(fault).__name__}: {str(fault)[:160]}") from None


class _Lost(Exception):
    """The packets that come are not those of the table: a seek led elsewhere."""


@dataclass(frozen=True)
class Chain:
    """Packets from a start to the last wanted one.

    Args:
        targets: the wanted ones, by packet.
        bold: seeks, and skips what no target needs.
    """

    start: int
    targets: tuple[int, ...]
    bold: bool = True

    @property
    def last(self) -> int:
        return max(self.targets)


def plan(table: PacketTable, wanted: list[int]) -> list[Chain]:
    """Chains that hold every wanted position, in order; where two would overlap they are one."""
    starts = np.flatnonzero(table.start)
    chains: list[Chain] = []
    for packet in sorted(int(table.order[position]) for position in wanted):
        start = _start_of(table, starts, packet)
        if chains and start <= chains[-1].last:
            before = chains.pop()
            chains.append(Chain(min(start, before.start), (*before.targets, packet)))
        else:
            chains.append(Chain(start, (packet,)))
    return chains


def _start_of(table: PacketTable, starts: np.ndarray, packet: int) -> int:
    """The last start at or before a packet that is not shown after it: frames that lead a start in
    presentation may refer to frames before it (open group of pictures)."""
    place = int(np.searchsorted(starts, packet, side="right")) - 1
    while place > 0 and table.pts[starts[place]] > table.pts[packet]:
        place -= 1
    return int(starts[max(place, 0)])


class Video:
    """One open video with its packet table, its plan and its decoder; use as a context manager."""

    def __init__(self, file: Path, request: DecodeRequest) -> None:
        self._file, self._request, self.watch = file, request, Watch()
        with self.watch:
            self.open = OpenVideo(file, request.max_pixels)
        self.feed = Feed(self.open.stream, self.watch, request.max_pixels)
        self._to_rgb = VideoReformatter()  # kept: a new one for each frame costs more than the conversion
        self.repeats: Counter[int] = Counter()
        self.count = 0

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *exc: object) -> None:
        self.open.close()

    def frames(self) -> Iterator[tuple[int, float, Any]]:
        """Position, seconds and decoded frame of each sampled position, each once, in order."""
        try:
            table = read_table(self.open, self.watch)
            found = self._planned(table) if table.planned else self._sequential()
            yield from self.watch.around(found)
        except Damaged as damage:
            reason = Reason.VIDEO_TOO_LARGE if too_large(str(damage)) else Reason.FRAMES_DAMAGED
            raise MediumError(reason, str(damage)[:240]) from None

    def upright(self, frame) -> Image.Image:
        picture = Image.fromarray(self._to_rgb.reformat(frame, format="rgb24").to_ndarray())
        turn = (round(frame.rotation) or self.feed.turn) % 360
        return picture.rotate(turn, expand=True) if turn else picture

    def _choose(self, times: np.ndarray, keys: np.ndarray) -> list[int]:
        self.count = len(times)
        if self._request.middle_of:
            stream = self.open.stream
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            self.repeats = Counter([middle_position(self.count, rate, self._request.middle_of)])
        else:
            self.repeats = Counter(choose(times, keys, self._request.sampling))
        return sorted(self.repeats)

    def _planned(self, table: PacketTable) -> Iterator[tuple[int, float, Any]]:
        times = table.times()
        wanted = self._choose(times, table.start[table.order])
        at = {int(table.order[position]): position for position in wanted}
        early: dict[int, Any] = {}  # frames that came out before one that is shown earlier
        due = iter(wanted)
        position = next(due)
        for packet, frame in Walk(self, table).frames(plan(table, wanted)):
            early[at[packet]] = frame
            while position in early:
                yield position, float(times[position]), early.pop(position)
                position = next(due, -1)

    def restart(self) -> None:
        """Opens the file anew: the next packet is the first, the decoder knows nothing."""
        self.open.close()
        self.open = OpenVideo(self._file, self._request.max_pixels)
        self.feed = Feed(self.open.stream, self.watch, self._request.max_pixels)
        self.watch.forget()  # what the probing of the first packets had to say

    def _sequential(self) -> Iterator[tuple[int, float, Any]]:
        """Every frame from the first on: once to count them, once more to take the wanted ones."""
        shown, keys = [], []
        for frame in self._all():
            shown.append(UNKNOWN if frame.pts is None else frame.pts)
            keys.append(bool(frame.key_frame))
        if not shown:
            raise MediumError(Reason.MEDIA_NO_VIDEO, "no frame comes out of the video stream")
        times = _times(np.array(shown, np.int64), self.open.stream)
        wanted = self._choose(times, np.array(keys))
        left = set(wanted)
        for position, frame in enumerate(self._all()):
            if position in left:
                left.discard(position)
                yield position, float(times[position]), frame
            if not left:
                return

    def _all(self) -> Iterator[Any]:
        self.restart()
        for packet in read(self.open.container.demux(self.open.stream), self.watch):
            if packet.size and packet.is_corrupt:
                raise Damaged("a packet is marked as corrupt")
            yield from self.feed(packet if packet.size else None)


def _times(ticks: np.ndarray, stream) -> np.ndarray:
    """Seconds from the first frame; by the frame rate where the stream has no times that go forward."""
    if (ticks != UNKNOWN).all() and (np.diff(ticks) >= 0).all():
        return (ticks - ticks[0]) * float(stream.time_base)
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return np.arange(len(ticks)) / float(rate)


class Walk:
    """One walk forward through the packets of a table, from chain to chain."""

    def __init__(self, video: Video, table: PacketTable) -> None:
        self._video, self._table = video, table
        self._ticks = table.pts[table.order]
        self._skips = video.feed.context.codec.name in SKIPPING
        self._packets: Iterator[Any] | None = None  # from the demuxer; None before the first seek
        self._next = 0  # the packet that it gives next
        self._whole = True  # the decoder does not skip
        self._seeks = True  # until a seek led elsewhere

    def frames(self, chains: list[Chain]) -> Iterator[tuple[int, Any]]:
        """Packet and frame of each target. A chain that fails is tried once more from an earlier start,
        every frame of it decoded and read without a seek, before it counts as damaged."""
        for chain in chains:
            left = set(chain.targets)
            try:
                yield from self._chain(chain, left)
                continue
            except (Damaged, _Lost) as fault:
                self._seeks = self._seeks and not isinstance(fault, _Lost)
                start = self._safe(chain.start)
            self._packets, self._whole = None, True
            self._video.restart()
            try:
                yield from self._chain(Chain(start, tuple(left), bold=False), left)
            except _Lost:
                raise Damaged("the file gives other packets when it is read again") from None

    def _safe(self, start: int) -> int:
        """The last packet to start from whatever the container says of the given one."""
        told_by_data = self._video.feed.context.codec.name in ("h264", "hevc")
        before = np.flatnonzero(self._table.closed[: start + told_by_data])
        return int(before[-1]) if len(before) else 0

    def _chain(self, chain: Chain, left: set[int]) -> Iterator[tuple[int, Any]]:
        self._video.feed.context.flush_buffers()
        begin, pts, corrupt = self._table.pts[chain.start], self._table.pts, self._table.corrupt
        for packet in self._from(chain):
            index = self._next - 1
            if corrupt[index]:
                raise Damaged("a packet is marked as corrupt")
            # What is shown before the start needs frames from before it, and nothing after it needs that.
            if pts[index] >= begin or not chain.bold:
                yield from self._decode(packet, index in left or not chain.bold, left)
        yield from self._decode(None, True, left)
        if left:
            raise Damaged(f"{len(left)} frames that the container promises do not come out")

    def _decode(self, packet, whole: bool, left: set[int]) -> Iterator[tuple[int, Any]]:
        feed, ticks = self._video.feed, self._ticks
        if self._skips and whole is not self._whole:
            feed.context.skip_frame = "DEFAULT" if whole else "NONREF"
            self._whole = whole
        for frame in feed(packet):
            if frame.pts is None:
                raise Damaged("a frame without a time comes out")
            position = int(np.searchsorted(ticks, frame.pts))
            if position == len(ticks) or ticks[position] != frame.pts:
                raise Damaged(f"a frame comes out at {frame.pts}, where no packet has its time")
            index = int(self._table.order[position])
            if index in left:
                left.discard(index)
                yield index, frame

    def _from(self, chain: Chain) -> Iterator[Any]:
        """The packets of a chain, each the one that the table has at its place."""
        self._go_to(chain)
        while self._next <= chain.last:
            yield self._read()

    def _read(self) -> Any:
        packet = next((p for p in self._packets if p.size), None) if self._packets else None
        at, table = self._next, self._table
        pts = UNKNOWN if packet is None or packet.pts is None else packet.pts
        if packet is None or pts != table.pts[at] or packet.size != table.size[at]:
            raise _Lost
        self._next += 1
        return packet

    def _go_to(self, chain: Chain) -> None:
        near = self._packets is not None and 0 <= chain.start - self._next <= _NEAR
        if not near and chain.bold and self._seeks:
            self._seek(chain.start)
        elif self._packets is None:
            self._packets, self._next = self._demux(), 0
        while self._next < chain.start:
            self._read()

    def _seek(self, start: int) -> None:
        """Leads to the start or to a packet before it; where it leads is told by the packet that comes."""
        video, table = self._video.open, self._table
        try:
            video.container.seek(int(table.pts[start]), stream=video.stream, backward=True)
        except (av.FFmpegError, OSError):
            raise _Lost from None
        packets = self._demux()
        packet = next((p for p in packets if p.size), None)
        if packet is None or packet.pts is None:
            raise _Lost
        position = int(np.searchsorted(self._ticks, packet.pts))
        at = int(table.order[position]) if position < len(table.order) else len(table.pts)
        if at > start or table.pts[at] != packet.pts or table.size[at] != packet.size:
            raise _Lost
        self._packets, self._next = itertools.chain([packet], packets), at

    def _demux(self) -> Iterator[Any]:
        video = self._video.open
        return read(video.container.demux(video.stream), self._video.watch)


def _read_with_decord(file: Path, request: DecodeRequest) -> Iterator[Picture]:
    """decord's pixels of the frames that PyAV finds nothing against: decord returns damaged ones as good."""
    import decord

    with Video(file, request) as video:
        times = {position: time for position, time, _ in video.frames()}
        repeats, count = video.repeats, video.count
    try:
        reader = decord.VideoReader(str(file), num_threads=1)
        if len(reader) != count:
            raise MediumError(Reason.MEDIA_UNREADABLE, f"decord finds {len(reader)} of {count} frames")
        for position in times:
            image = Image.fromarray(reader.get_batch([position]).asnumpy()[0])
            time = float(reader.get_frame_timestamp([position])[0, 0])
            for _ in range(repeats[position]):
                yield Picture(position, time, image, "clean")
    except (decord.DECORDError, RuntimeError, ValueError) as fault:
        first = str(fault).strip().splitlines()[-1] if str(fault).strip() else "no message"
        raise MediumError(Reason.MEDIA_UNREADABLE, f"decord: {first[:160]}") from None
