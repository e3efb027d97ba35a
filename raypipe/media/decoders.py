"""Which decoders the installed PyAV brings."""

from __future__ import annotations

# What the published data and everyday collections are in. AV1 needs a library; the plain name wants a GPU.
WANTED = {
    "H.264": ("h264",),
    "HEVC": ("hevc",),
    "VP9": ("vp9", "libvpx-vp9"),
    "VP8": ("vp8", "libvpx"),
    "AV1": ("libdav1d", "libaom-av1", "libgav1"),
    "MPEG-4": ("mpeg4",),
    "GIF": ("gif",),
    "MJPEG": ("mjpeg",),
}


def present() -> dict[str, bool]:
    """Each kind of video, and whether this PyAV can decode it on a CPU."""
    import av

    have = av.codec.codecs_available
    return {kind: any(name in have for name in names) for kind, names in WANTED.items()}
