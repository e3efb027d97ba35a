"""Five hundred mutated media through the sandbox: each ends as a medium or with a reason, in time."""

import collections
import random
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from raypipe.media.decode import DecodeRequest
from raypipe.media.rendition import load_frame
from raypipe.media.sandbox import Sandbox
from raypipe.records import Medium, MediumKind, Reason, Rejection
from raypipe.settings import DecodeLimits, Rendition, Sampling
from tests.support.clips import picture, write_clip, write_gif

pytestmark = pytest.mark.engine

MUTATIONS = 500
LOSSLESS = Rendition(codec="lossless", short_side=1000)
LIMITS = DecodeLimits(timeout_s=8, memory_mib=2048, max_pixels=4_000_000)
EXPECTED = set(Reason) - {
    Reason.BAD_JSON,
    Reason.BAD_RECORD,
    Reason.BAD_TAGS,
    Reason.NOTHING_TO_LEARN,
    Reason.MEDIA_MISSING,
    Reason.MEDIA_OUTSIDE_ROOT,
    Reason.MEDIA_CHANGED,
    Reason.GENERATION_FAILED,
}


def seeds(root: Path) -> dict[str, MediumKind]:
    """Tiny good media of every container and many codecs."""
    clips = {
        "a.mp4": ("libx264", {"bf": "2", "g": "6"}),
        "b.mp4": ("libx264", {"movflags": "+faststart", "g": "4"}),
        "c.mp4": ("libx265", {"x265-params": "log-level=none"}),
        "d.mkv": ("libx264", {}),
        "e.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
        "f.avi": ("mpeg4", {}),
        "g.avi": ("mjpeg", {}),
        "h.ts": ("libx264", {"bf": "0"}),
        "i.mov": ("libx264", {"movflags": "+frag_keyframe+empty_moov"}),
    }
    for name, (codec, options) in clips.items():
        if codec == "mjpeg":
            _write_mjpeg(root / name)
        else:
            write_clip(root / name, 10, size=(64, 48), codec=codec, noise=5, **options)
    write_gif(root / "j.gif", 6)
    grain = np.random.default_rng(4).normal(size=(48, 64, 3)) * 20
    shown = Image.fromarray((np.asarray(picture(341, (64, 48))) + grain).clip(0, 255).astype(np.uint8))
    for name in ("k.png", "l.jpg", "m.webp", "n.gif", "o.tiff", "p.bmp"):
        shown.save(root / name)
    shown.save(root / "q.jpg", progressive=True)
    images = ("k.png", "l.jpg", "m.webp", "n.gif", "o.tiff", "p.bmp", "q.jpg")
    return dict.fromkeys((*clips, "j.gif"), MediumKind.VIDEO) | dict.fromkeys(images, MediumKind.IMAGE)


def _write_mjpeg(file: Path) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(10):
            frame = av.VideoFrame.from_image(picture(number, (64, 48)))
            container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        container.mux(stream.encode())


def flips(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 4, 32))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def burst(data: bytearray, dice: random.Random) -> None:
    place, length = dice.randrange(len(data)), dice.choice((4, 40, 400))
    data[place : place + length] = dice.randbytes(len(data[place : place + length]))


def zeros(data: bytearray, dice: random.Random) -> None:
    place, length = dice.randrange(len(data)), dice.choice((16, 256, 1024))
    data[place : place + length] = bytes(len(data[place : place + length]))


def cut(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(1, len(data)) :]


def lost(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data))
    del data[place : place + dice.choice((1, 7, 188, 900))]


def inserted(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data))
    data[place:place] = dice.randbytes(dice.choice((1, 5, 300)))


def header(data: bytearray, dice: random.Random) -> None:
    for _ in range(3):
        data[dice.randrange(min(64, len(data)))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF))


def numbers(data: bytearray, dice: random.Random) -> None:
    """Sizes, counts and offsets of the index become extreme."""
    boxes = (b"stsz", b"stco", b"stts", b"stsc", b"tkhd", b"avcC", b"moov")
    marks = (*boxes, b"movi", b"IDAT", b"\xff\xc0")
    places = [data.find(mark) for mark in marks if data.find(mark) >= 0] or [dice.randrange(len(data))]
    place = dice.choice(places) + dice.randrange(-4, 24)
    data[max(0, place) : max(0, place) + 4] = dice.choice(
        (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\1\0\0")
    )


def doubled(data: bytearray, dice: random.Random) -> None:
    place, length = dice.randrange(len(data)), dice.choice((8, 188, 1000))
    data[place:place] = data[place : place + length]


def swapped(data: bytearray, dice: random.Random) -> None:
    length = max(1, min(400, len(data) // 4))
    one = dice.randrange(0, len(data) // 2 - length + 1)
    two = dice.randrange(len(data) // 2, len(data) - length + 1)
    data[one : one + length], data[two : two + length] = data[two : two + length], data[one : one + length]


HARMS = (flips, burst, zeros, cut, lost, inserted, header, numbers, doubled, swapped)


@pytest.mark.timeout(600)
def test_five_hundred_mutations_are_all_classified(tmp_path):
    names = seeds(tmp_path)
    good = {name: (tmp_path / name).read_bytes() for name in names}
    ends: collections.Counter[str] = collections.Counter()
    per_harm: collections.Counter[str] = collections.Counter()
    formats: collections.Counter[str] = collections.Counter()
    slowest = 0.0

    def request(name: str, kind: MediumKind) -> DecodeRequest:
        return DecodeRequest(
            name, kind, str(tmp_path), name, Sampling(), LOSSLESS, max_pixels=LIMITS.max_pixels
        )

    with Sandbox(LIMITS) as sandbox:
        truth = {name: sandbox.decode(request(name, kind)) for name, kind in names.items()}
        assert all(isinstance(found, Medium) for found in truth.values()), truth
        for number in range(MUTATIONS):
            dice, name = random.Random(number), sorted(names)[number % len(names)]
            harm, data = HARMS[number // len(names) % len(HARMS)], bytearray(good[name])
            harm(data, dice)
            assert data != good[name] or harm in (swapped, zeros, header)
            (tmp_path / name).write_bytes(data)
            began = time.monotonic()
            found = sandbox.decode(request(name, names[name]))
            slowest = max(slowest, time.monotonic() - began)
            end = _end_of(found, truth[name])
            ends[end] += 1
            formats[f"{end}: {name}"] += 1
            per_harm[f"{harm.__name__}: {'same' if end == 'same' else 'not the same'}"] += 1
            (tmp_path / name).write_bytes(good[name])
        after = {name: sandbox.decode(request(name, kind)) for name, kind in names.items()}
    assert after == truth  # and nothing is left behind that harms the good ones
    assert sum(ends.values()) == MUTATIONS
    assert ends["same"] <= MUTATIONS // 3, ends  # the mutations fired
    assert all(per_harm[f"{harm.__name__}: not the same"] >= 10 for harm in HARMS), per_harm
    assert slowest < LIMITS.tries * LIMITS.timeout_s + 10
    assert ends["decoder_crashed"] + ends["decoder_timeout"] <= MUTATIONS // 50, ends
    changed = {k.split()[-1]: n for k, n in sorted(formats.items()) if k.startswith("other")}
    print(dict(ends), f"slowest {slowest:.2f} s; other pictures by format: {changed}")


def _end_of(found: Medium | Rejection, truth: Medium) -> str:
    """How one ended; anything but a whole medium or an expected reason fails here."""
    if isinstance(found, Rejection):
        assert found.reason in EXPECTED, found
        assert found.detail
        return str(found.reason)
    assert isinstance(found, Medium)
    assert len(found.frames) == len(found.pts_s) == len(found.frame_index) == len(found.evidence) > 0
    shown = [load_frame(frame) for frame in found.frames]
    assert all(pixels.ndim == 3 and pixels.shape[2] == 3 for pixels in shown)
    same = found.frame_index == truth.frame_index and found.frames == truth.frames
    return "same" if same else "other pictures"
