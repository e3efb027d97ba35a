"""One decoder, as strict as it gets: it gives frames, or says what speaks against them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

from raypipe.media.evidence import STRICT, STRICT_AV1, Watch, illegal_gif, illegal_nal
from raypipe.media.fault import MediumError
from raypipe.media.packets import length_prefix
from raypipe.media.pulse import beat
from raypipe.records import Reason

# libvpx sees when the bits of a VP9 frame do not end where the frame ends; the native decoder does not.
_LIBVPX_VP9 = frozenset(("yuv420p", "yuv422p", "yuv440p", "yuv444p"))


class Damaged(Exception):
    """Something speaks against the frames that are being decoded."""


def read(demuxer: Iterator[Any], watch: Watch) -> Iterator[Any]:
    """The packets of a demuxer; what it complains of is raised."""
    for packet in demuxer:
        beat()
        if said := watch.fault():
            raise Damaged(said)
        yield packet


class Feed:
    """A decoder that raises whatever speaks against its frames."""

    def __init__(self, stream, watch: Watch, max_pixels: int) -> None:
        self.context = _decoder(stream, max_pixels)
        self._native = stream.codec_context if self.context is not stream.codec_context else None
        self._prefix = length_prefix(self.context.codec.name, stream.codec_context.extradata)
        self._watch, self._max_pixels = watch, max_pixels
        self._shape: tuple[Any, ...] = ()
        self.turn = 0  # degrees, where the frames themselves do not know it

    def __call__(self, packet) -> list[Any]:
        """The frames that come out for a packet; None drains the decoder.

        Raises:
            Damaged: an error, a logged complaint, a marked frame, a form that cannot be.
        """
        if packet is not None and (form := self._form(packet)):
            raise Damaged(form)
        stopped = ""
        try:
            frames = self.context.decode(packet)
            if self._native and packet is not None:
                self.turn = next((round(f.rotation) for f in self._native.decode(packet)), 0)
                self._native = None
        except av.FFmpegError as fault:
            stopped = f"{type(fault).__name__}: {str(fault)[:120]}"
        if said := self._watch.fault() or stopped:
            raise Damaged(said)
        for frame in frames:
            self._check(frame)
        return frames

    def _form(self, packet) -> str | None:
        if self._prefix:
            # Intra-only H.264 of cameras fills its packets up with zeros.
            hevc = self.context.codec.name == "hevc"
            return illegal_nal(bytes(packet), self._prefix, 8 if hevc else packet.size)
        return illegal_gif(bytes(packet)) if self.context.codec.name == "gif" else None

    def _check(self, frame) -> None:
        if frame.is_corrupt:
            raise Damaged("the decoder marks a frame as damaged")
        if frame.width * frame.height > self._max_pixels:
            raise MediumError(Reason.VIDEO_TOO_LARGE, f"{frame.width}x{frame.height} pixels")
        shape = frame.width, frame.height, frame.format.name
        if self._shape and shape != self._shape and not frame.key_frame:
            raise Damaged(f"the picture changes its form from {self._shape} to {shape}")
        self._shape = shape


def _decoder(stream, max_pixels: int):
    """A decoder for the stream, as strict as it gets, with one thread."""
    given = stream.codec_context
    name = given.codec.name
    context = given
    if name == "vp9" and given.pix_fmt in _LIBVPX_VP9:
        context = av.CodecContext.create("libvpx-vp9", "r")
        context.extradata = given.extradata
        for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(context, tag, getattr(given, tag))
    given.thread_count = context.thread_count = 1
    context.options = {**(STRICT_AV1 if name == "libdav1d" else STRICT), "max_pixels": str(max_pixels)}
    return context
