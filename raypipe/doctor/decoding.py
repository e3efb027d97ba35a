"""Checks of decoding: every codec decodes a clip that is drawn on the spot, and the decode child works."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator

from raypipe.doctor.checks import Asked, Check, Finding, fail, ok
from raypipe.doctor.host import Host
from raypipe.media import decoders
from raypipe.media.decode import DecodeRequest
from raypipe.media.sandbox import Sandbox
from raypipe.records import MediumKind, Rejection
from raypipe.settings import DecodeLimits, Rendition, Sampling

FRAMES = 3
# Drawn by SVT-AV1, whose encoder prints to the terminal: three grey frames of 64 x 64.
SHIPPED = {
    "AV1": (
        "REtJRgAAIABBVjAxQABAAAoAAAABAAAAAwAAAAAAAAAgAAAAAAAAAAAAAAASAAoKAAAAAq//jV8wCDIQEACwggUUIIEAAAgA"
        "lc324C4AAAABAAAAAAAAABIAMhUoAgAkkkkdjABxwwwgAADAAAAKPMAyEzACBAkkADsYAAACAAAMABhZWRYFAAAAAgAAAAAA"
        "AAASABoBiA=="
    )
}
# What draws a clip of each other kind: encoder, container, pixels, options. Without it, it is not tried.
ENCODERS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "H.264": ("libx264", "mp4", "yuv420p", {}),
    "HEVC": ("libx265", "mp4", "yuv420p", {"x265-params": "log-level=none"}),
    "VP9": ("libvpx-vp9", "webm", "yuv420p", {}),
    "VP8": ("libvpx", "webm", "yuv420p", {}),
    "MPEG-4": ("mpeg4", "mp4", "yuv420p", {}),
    "GIF": ("gif", "gif", "rgb8", {}),
    "MJPEG": ("mjpeg", "avi", "yuvj420p", {}),
}


def codecs(host: Host, _: Asked) -> Iterator[Finding]:
    """Not only that a decoder is listed: it decodes."""
    version = host.version("av")
    lacking = [kind for kind, there in decoders.present().items() if not there]
    if lacking:
        found = f"PyAV {version} lacks {', '.join(lacking)}"
        yield fail("decoders", found, "install PyAV's own wheel: pip install --force-reinstall av")
        return
    tried, broken = [], []
    for kind in decoders.WANTED:
        data = _drawn(kind)
        if data is None:
            continue
        tried.append(kind)
        fault = _decoded(data)
        if fault:
            broken.append(f"{kind}: {fault}")
    if broken:
        yield fail(
            "decoders",
            f"PyAV {version} cannot decode what it encoded: {'; '.join(broken)}",
            "install PyAV's own wheel: pip install --force-reinstall av",
        )
        return
    listed = [kind for kind in decoders.WANTED if kind not in tried]
    more = f"; listed and not tried: {', '.join(listed)}" if listed else ""
    yield ok("decoders", f"PyAV {version} decodes {', '.join(tried)}{more}")


def child(host: Host, _: Asked) -> Iterator[Finding]:
    """The process that decodes files of strangers starts, within its limits, and answers."""
    from PIL import Image

    with tempfile.TemporaryDirectory(prefix="raypipe-doctor-") as folder:
        first, *rest = [Image.new("RGB", (32, 24), (40 * n, 90, 200)) for n in range(4)]
        first.save(f"{folder}/clip.gif", save_all=True, append_images=rest, duration=100)
        request = DecodeRequest(
            key="doctor",
            kind=MediumKind.VIDEO,
            root=folder,
            path="clip.gif",
            sampling=Sampling(frames=4),
            rendition=Rendition(short_side=24),
        )
        with Sandbox(DecodeLimits(timeout_s=8, tries=1)) as sandbox:
            medium = sandbox.decode(request)
    if isinstance(medium, Rejection):
        fix = "see that a child process may start and take memory (ulimit -v, seccomp, cgroup limits)"
        yield fail("decode child", f"{medium.reason}: {medium.detail}", fix)
    else:
        yield ok("decode child", f"starts and decodes a drawn clip: {len(medium.frames)} frames")


def _drawn(kind: str) -> bytes | None:
    """A clip of some frames, shipped or drawn; None where this PyAV cannot draw one."""
    import av
    import numpy as np

    if kind in SHIPPED:
        return base64.b64decode(SHIPPED[kind])
    encoder, container, pixels, options = ENCODERS.get(kind, ("", "", "", {}))
    if encoder not in av.codec.codecs_available:
        return None
    out = io.BytesIO()
    with av.open(out, "w", format=container) as opened:
        stream = opened.add_stream(encoder, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixels  # type: ignore[attr-defined]
        for number in range(FRAMES):
            shown = np.full((64, 64, 3), 60 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            opened.mux(stream.encode(frame))  # type: ignore[attr-defined]
        opened.mux(stream.encode(None))  # type: ignore[attr-defined]
    return out.getvalue()


def _decoded(data: bytes) -> str:
    """What is wrong with decoding a drawn clip; "" for nothing."""
    import av

    try:
        with av.open(io.BytesIO(data)) as opened:
            count = sum(1 for _ in opened.decode(video=0))
    except Exception as fault:  # whatever the library raises is the finding
        return f"{type(fault).__name__}"
    return "" if count == FRAMES else f"{count} of {FRAMES} frames"


CHECKS = (Check("decoders", codecs), Check("decode child", child))
