"""What the catalogue of bad and odd media is made of (test_catalogue.py sends each through a sandbox).

``CASES`` maps a name to what makes the file, and to the reason it is refused for ("ok" where it is not).
Hangs, crashes and memory are in test_sandbox.py; failing storages in test_source.py.
"""

import os
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, PngImagePlugin

from raypipe.records import MediumKind, Reason
from tests.support.clips import picture, write_clip, write_gif, write_image

Made = str | tuple[str, dict[str, object]]  # the path as an annotation names it, and more of the request
V, I = MediumKind.VIDEO, MediumKind.IMAGE  # noqa: E741
R = Reason
CUT = (R.MEDIA_TRUNCATED, R.FRAMES_DAMAGED, R.MEDIA_UNREADABLE)  # which, is for the container to say
NO_INDEX = (*CUT, R.MEDIA_NO_VIDEO)  # what is left of an index may name no stream
CASES: dict[str, tuple[MediumKind, Callable[[Path], Made], object]] = {}


def case(name: str, kind: MediumKind, expected: object, *arguments):
    """Puts a builder into the table; ``arguments`` are handed to it."""

    def add(build):
        assert name not in CASES
        CASES[name] = (kind, lambda root: build(root, *arguments), expected)
        return build

    return add


def written(root: Path, name: str, data: bytes | str) -> str:
    (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return name


# Rows 1 and 2: no bytes, and bytes of something else.
@case("an empty video", V, R.MEDIA_EMPTY, b"")
@case("an empty image", I, R.MEDIA_EMPTY, b"")
@case("one byte as a video", V, R.MEDIA_UNREADABLE, b"\0")
@case("one byte as an image", I, R.MEDIA_UNREADABLE, b"\0")
@case("a web page as a video", V, R.MEDIA_UNREADABLE, b"<!DOCTYPE html><html>404</html>" * 40)
@case("a web page as an image", I, R.MEDIA_UNREADABLE, b"<!DOCTYPE html><html>404</html>" * 40)
@case("zeros as a video", V, R.MEDIA_UNREADABLE, bytes(9000))
@case("zeros as an image", I, R.MEDIA_UNREADABLE, bytes(9000))
@case("noise as a video", V, R.MEDIA_UNREADABLE, np.random.default_rng(2).bytes(9000))
@case("noise as an image", I, R.MEDIA_UNREADABLE, np.random.default_rng(2).bytes(9000))
@case("an archive as a video", V, R.MEDIA_UNREADABLE, b"PK\3\4" + b"\x14\0" * 500)
@case("a drawing (svg) as an image", I, R.MEDIA_UNREADABLE, b'<svg xmlns="http://www.w3.org/2000/svg"/>')
@case("subtitles as a video", V, R.MEDIA_UNREADABLE, b"1\n00:00:01,000 --> 00:00:02,000\nHello\n" * 20)
@case(
    "the name of a pointer (git lfs)", V, R.MEDIA_UNREADABLE, b"version https://git-lfs.github.com/spec/v1\n"
)
def of_bytes(root, data):
    return written(root, "m.mp4", data)


@case("an image where a video should be", V, R.MEDIA_UNREADABLE, "i.png")
@case("a photograph where a video should be", V, R.MEDIA_UNREADABLE, "i.jpg")
def image_as_video(root, name):
    write_image(root / name)
    return name


@case("a video where an image should be", I, R.MEDIA_UNREADABLE)
def video_as_image(root):
    write_clip(root / "m.mp4", 3)
    return "m.mp4"


# Rows 3 to 5: cut and damaged.
def clip_bytes(root: Path, name: str, **options) -> bytes:
    return write_clip(root / name, 40, noise=10, g="10", **options).read_bytes()


@case("cut, index at the end, 30 %", V, CUT, 0.3)
@case("cut, index at the end, 97 %", V, NO_INDEX, 0.97)
@case("cut, index at the end, within the index", V, NO_INDEX, 0.98)
def cut_at_the_end(root, share):
    data = clip_bytes(root, "m.mp4")
    return written(root, "m.mp4", data[: int(len(data) * share)])


@case("cut, index in front, 50 %", V, CUT, 0.5)
@case("cut, index in front, 95 %", V, CUT, 0.95)
def cut_in_front(root, share):
    data = clip_bytes(root, "m.mp4", bf="0", movflags="+faststart")
    return written(root, "m.mp4", data[: int(len(data) * share)])


@case("cut avi", V, CUT, "m.avi", "mpeg4")
@case("cut mkv", V, CUT, "m.mkv", "libx264")
@case("cut webm", V, CUT, "m.webm", "libvpx-vp9")
def cut_container(root, name, codec):
    data = clip_bytes(root, name, codec=codec)
    return written(root, name, data[: int(len(data) * 0.6)])


@case("cut gif as a video", V, CUT)
def cut_gif(root):
    data = write_gif(root / "m.gif", 15).read_bytes()
    return written(root, "m.gif", data[: int(len(data) * 0.6)])


@case("only the first kilobyte", V, NO_INDEX)
def head_only(root):
    return written(root, "m.mp4", clip_bytes(root, "m.mp4", movflags="+faststart")[:1000])


@case("zeros over a third of the pictures", V, CUT)
def zeroed(root):
    data = bytearray(clip_bytes(root, "m.mp4"))
    start, end = data.index(b"mdat") + 8, data.index(b"moov") - 8
    third = (end - start) // 3
    data[start + third : start + 2 * third] = bytes(third)
    return written(root, "m.mp4", bytes(data))


@case("the pictures in another order", V, CUT)
def swapped(root):
    data = clip_bytes(root, "m.mp4")
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    middle = (start + end) // 2 + 13
    return written(root, "m.mp4", data[:start] + data[middle:end] + data[start:middle] + data[end:])


@case("an index that points past the end", V, NO_INDEX)
def wild_index(root):
    data = bytearray(clip_bytes(root, "m.mp4"))
    place = data.index(b"stco") + 12
    data[place : place + 4] = b"\x7f\xff\xff\xff"
    return written(root, "m.mp4", bytes(data))


@case("a box that says it is longer than the file", V, NO_INDEX)
def long_box(root):
    data = bytearray(clip_bytes(root, "m.mp4"))
    place = data.index(b"moov") - 4
    data[place : place + 4] = b"\x7f\xff\xff\xff"
    return written(root, "m.mp4", bytes(data)[: data.index(b"stts")])


# Rows 8 and 26: larger than it says, larger than is allowed.
@case("a video of more pixels than allowed", V, R.VIDEO_TOO_LARGE)
def large_video(root):
    write_clip(root / "m.mp4", 2, size=(200, 100))
    return "m.mp4", {"max_pixels": 19_999}


@case("an image of more pixels than allowed", I, R.IMAGE_TOO_LARGE)
def large_image(root):
    write_image(root / "m.png", size=(200, 100))
    return "m.png", {"max_pixels": 19_999}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@case("a png that says it is 60000 x 60000", I, R.IMAGE_TOO_LARGE)
def forged_png(root):
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return written(root, "m.png", b"\x89PNG\r\n\x1a\n" + body)


@case("a real bomb: 20000 x 20000 in 50 kB", I, R.IMAGE_TOO_LARGE)
def true_bomb(root):
    packer, row = zlib.compressobj(9), bytes(1 + 20_000 // 8)
    rows = b"".join(packer.compress(row) for _ in range(20_000)) + packer.flush()
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return written(root, "m.png", b"\x89PNG\r\n\x1a\n" + body)


@case("a jpeg that says it is 65500 x 65500", I, R.IMAGE_TOO_LARGE)
def forged_jpeg(root):
    data = bytearray(write_image(root / "m.jpg").read_bytes())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    return written(root, "m.jpg", bytes(data))


@case("a gif that says it is 65535 x 65535, as an image", I, R.IMAGE_TOO_LARGE)
@case("a gif that says it is 65535 x 65535, as a video", V, (R.VIDEO_TOO_LARGE, *CUT))
def forged_gif(root):
    data = bytearray(write_gif(root / "m.gif", 3).read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"
    return written(root, "m.gif", bytes(data))


@case("a png with 90 MB of text in it", I, R.MEDIA_UNREADABLE)
def text_bomb(root):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 90_000_000, zip=True)
    picture(5).save(root / "m.png", pnginfo=info)
    assert (root / "m.png").stat().st_size < 1_000_000
    return "m.png"


# Images: cut and damaged.
@case("a cut png", I, R.MEDIA_UNREADABLE, "m.png", 0.5)
@case("a cut jpeg", I, R.MEDIA_UNREADABLE, "m.jpg", 0.5)
@case("a cut gif as an image", I, R.MEDIA_UNREADABLE, "m.gif", 0.5)
@case("a cut webp", I, R.MEDIA_UNREADABLE, "m.webp", 0.5)
@case("a cut bmp", I, R.MEDIA_UNREADABLE, "m.bmp", 0.5)
@case("a cut tiff", I, R.MEDIA_UNREADABLE, "m.tiff", 0.5)
@case("a png without its last byte", I, R.MEDIA_UNREADABLE, "m.png", 0.999999)
def cut_image(root, name, share):
    data = write_image(root / name, 341, size=(300, 200)).read_bytes()
    return written(root, name, data[: int(len(data) * share)])


@case("a png with a wrong checksum", I, R.FRAMES_DAMAGED)
def wrong_checksum(root):
    data = bytearray(write_image(root / "m.png").read_bytes())
    place = data.index(b"IEND") - 5
    data[place] ^= 1
    return written(root, "m.png", bytes(data))


@case("a jpeg with a hole", I, R.FRAMES_DAMAGED)
def hole(root):
    grain = np.random.default_rng(1).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    Image.fromarray(grain).save(root / "m.jpg")
    data = (root / "m.jpg").read_bytes()
    with Image.open(root / "m.jpg") as opened:
        opened.load()
    return written(root, "m.jpg", data[:20_000] + data[24_000:])


# Row 13: no pictures.
@case("sound alone, mp4", V, R.MEDIA_NO_VIDEO, "m.mp4")
@case("sound alone, mkv", V, R.MEDIA_NO_VIDEO, "m.mkv")
def sound(root, name):
    with av.open(str(root / name), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for number in range(4):
            tone = np.zeros((1, 1024), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return name


@case("a container with a video stream of no frames", V, R.MEDIA_TRUNCATED)  # its header promises three
def no_frames(root):
    data = write_clip(root / "m.avi", 3, codec="mpeg4").read_bytes()
    return written(root, "m.avi", data[: data.index(b"movi") + 4])


# Row 16: files that lead to other files. The other file is there.
@case("a playlist (m3u8)", V, R.MEDIA_UNREADABLE, "#EXTM3U\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n")
@case("a playlist of addresses", V, R.MEDIA_UNREADABLE, "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n")
@case("a list of files (ffconcat)", V, R.MEDIA_UNREADABLE, "ffconcat version 1.0\nfile other.ts\n")
@case(
    "a manifest (dash)", V, R.MEDIA_UNREADABLE, '<?xml version="1.0"?><MPD><BaseURL>other.ts</BaseURL></MPD>'
)
@case("a session description", V, R.MEDIA_UNREADABLE, "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n")
def leads_on(root, text):
    write_clip(root / "other.ts", 12)
    return written(root, "m.mp4", text)


# Rows 17 and 21: missing, or not what was planned.
@case("no such file", V, R.MEDIA_MISSING, "no.mp4")
@case("another case of the letters", V, R.MEDIA_MISSING, "M.MP4")
@case("a space behind the name", V, R.MEDIA_MISSING, "m.mp4 ")
@case("a file where a folder should be", V, R.MEDIA_MISSING, "m.mp4/x.mp4")
def missing(root, path):
    write_clip(root / "m.mp4", 3)
    return path


@case("other bytes than planned", V, R.MEDIA_CHANGED, 1, None)
@case("another time than planned", V, R.MEDIA_CHANGED, 0, "17")
def changed(root, more, stamp):
    status = write_clip(root / "m.mp4", 3).stat()
    return "m.mp4", {"size": status.st_size + more, "stamp": stamp or str(status.st_mtime_ns)}


# Row 24: paths.
@case("up and out", V, R.MEDIA_OUTSIDE_ROOT, "../out.mp4")
@case("in, up and out", V, R.MEDIA_OUTSIDE_ROOT, "in/../../out.mp4")
@case("up, and in again", V, R.MEDIA_OUTSIDE_ROOT, "in/../m.mp4")
@case("an absolute path", V, R.MEDIA_OUTSIDE_ROOT, "{out}")
@case("the environment of the process", V, R.MEDIA_OUTSIDE_ROOT, "/proc/self/environ")
@case("an address, http", V, R.MEDIA_OUTSIDE_ROOT, "http://127.0.0.1/m.mp4")
@case("an address, file", V, R.MEDIA_OUTSIDE_ROOT, "file:///etc/passwd")
@case("an address, s3", V, R.MEDIA_OUTSIDE_ROOT, "s3://bucket/m.mp4")
@case("a protocol of the decoder", V, R.MEDIA_MISSING, "concat:m.mp4|m.mp4")
@case("a zero byte in the path", V, R.MEDIA_OUTSIDE_ROOT, "m\0.mp4")
@case("half a character in the path", V, R.MEDIA_UNREADABLE, "\ud800.mp4")
@case("a path too long", V, R.MEDIA_UNREADABLE, "x" * 5000)
@case("a link that leads out", V, R.MEDIA_OUTSIDE_ROOT, "link.mp4")
@case("a folder's link that leads out", V, R.MEDIA_OUTSIDE_ROOT, "folder/out.mp4")
@case("a link to a device", V, R.MEDIA_OUTSIDE_ROOT, "device")
@case("a link to itself", V, R.MEDIA_UNREADABLE, "circle")
@case("a link to nothing", V, R.MEDIA_MISSING, "nothing")
@case("a folder", V, R.MEDIA_UNREADABLE, "in")
@case("the root", V, R.MEDIA_UNREADABLE, ".")
@case("a pipe", V, R.MEDIA_UNREADABLE, "pipe")
@case("a link inside the root", V, "ok", "inside.mp4")
@case("a name of signs and spaces", V, "ok", "in/ä b#?%20[1]*'\".mp4")
@case("a name that begins with a dash", V, "ok", "-i.mp4")
def paths(root, path):
    outside = write_clip(root.parent / "out" / "out.mp4", 9)
    data = write_clip(root / "m.mp4", 9).read_bytes()
    (root / "in").mkdir()
    for name in ("in/ä b#?%20[1]*'\".mp4", "-i.mp4"):
        written(root, name, data)
    (root / "link.mp4").symlink_to(outside)
    (root / "folder").symlink_to(outside.parent)
    (root / "device").symlink_to("/dev/zero")
    (root / "circle").symlink_to(root / "circle")
    (root / "nothing").symlink_to(root / "not there")
    (root / "inside.mp4").symlink_to(root / "m.mp4")
    os.mkfifo(root / "pipe")
    return path.format(out=outside) if path == "{out}" else path


# Rows 9 to 15: odd, but good. ``number`` of each kept frame is looked at.
@case("one frame", V, "ok", "m.mp4", 1)
@case("three frames", V, "ok", "m.mp4", 3)
@case("one frame, gif", V, "ok", "m.gif", 1)
@case("one thousand frames", V, "ok", "m.mp4", 1000)
def few(root, name, frames):
    (write_gif if name.endswith("gif") else write_clip)(root / name, frames)
    return name


@case("one key frame alone", V, "ok", "m.mp4", "libx264", "yuv420p", (80, 48), {"g": "9999", "bf": "3"})
@case("h264, 10 bits", V, "ok", "m.mp4", "libx264", "yuv420p10le", (80, 48), {})
@case("h264, 4:4:4, odd size", V, "ok", "m.mkv", "libx264", "yuv444p", (81, 49), {})
@case("hevc", V, "ok", "m.mp4", "libx265", "yuv420p", (80, 48), {"x265-params": "log-level=none"})
@case(
    "hevc, 10 bits", V, "ok", "m.mov", "libx265", "yuv420p10le", (80, 48), {"x265-params": "log-level=none"}
)
@case("vp9 with transparency", V, "ok", "m.webm", "libvpx-vp9", "yuva420p", (80, 48), {})
@case("av1", V, "ok", "m.mp4", "libsvtav1", "yuv420p", (80, 64), {"preset": "12"})
@case("prores, 4:2:2, 10 bits", V, "ok", "m.mov", "prores_ks", "yuv422p10le", (80, 48), {})
@case("mjpeg", V, "ok", "m.avi", "mjpeg", "yuvj420p", (80, 48), {})
@case("mpeg4 in avi", V, "ok", "m.avi", "mpeg4", "yuv420p", (80, 48), {"bf": "2"})
@case("transport stream", V, "ok", "m.ts", "libx264", "yuv420p", (80, 48), {"bf": "0"})
def codecs(root, name, codec, pixels, size, options):
    with av.open(str(root / name), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        for number in range(12):
            container.mux(
                stream.encode(av.VideoFrame.from_image(picture(number, size)).reformat(format=pixels))
            )
        container.mux(stream.encode())
    return name


@case("variable frame rate", V, "ok")
def variable(root):
    with av.open(str(root / "m.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=100)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate((0, 40, 50, 400, 410, 1000, 1010, 2000)):
            frame = av.VideoFrame.from_image(picture(number))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return "m.mkv"


@case("an image of 16 bits", I, "ok", "I;16")
@case("an image with a palette and transparency", I, "ok", "P")
@case("an image with grey and transparency", I, "ok", "LA")
@case("an image of 1 bit", I, "ok", "1")
@case("an image for print (cmyk)", I, "ok", "CMYK")
@case("an animation as an image", I, "ok", "GIF")
@case("an animation (webp) as an image", I, "ok", "WEBP")
def images(root, mode):
    file = root / "m"
    if mode == "I;16":
        Image.fromarray(np.asarray(picture(9).convert("L")).astype(np.uint16) * 257).save(file, "PNG")
    elif mode in ("GIF", "WEBP"):
        picture(9).save(file, mode, save_all=True, append_images=[picture(10)], duration=50)
    else:
        options = {"transparency": 0} if mode == "P" else {}
        picture(9).convert(mode).save(file, "JPEG" if mode == "CMYK" else "PNG", **options)
    return "m"


# What cannot show a number: the picture's greys are compared instead.
GREY = {"an image of 16 bits", "an image with grey and transparency", "an image of 1 bit"}
