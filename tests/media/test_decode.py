"""Good media: the frames that are stored are the frames that are there."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from raypipe.media.decode import DecodeRequest, decode
from raypipe.media.rendition import load_frame, perceptual_hash, scaled_size, store_frame
from raypipe.media.sampling import positions
from raypipe.records import Medium, MediumKind
from raypipe.settings import Rendition, Sampling
from tests.support.clips import (
    all_frames,
    number_of,
    picture,
    write_clip,
    write_gif,
    write_image,
    write_times,
)

LOSSLESS = Rendition(codec="lossless", short_side=1000)


def decoded(file: Path, kind: MediumKind = MediumKind.VIDEO, **more) -> Medium:
    values = {"sampling": Sampling(), "rendition": LOSSLESS}
    return decode(DecodeRequest("k", kind, str(file.parent), file.name, **{**values, **more}))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "3", "g": "7"}),
        ("b.mp4", "libx264", {"bf": "0", "movflags": "+faststart"}),
        ("c.avi", "mpeg4", {}),
        ("d.webm", "libvpx-vp9", {"lag-in-frames": "8", "auto-alt-ref": "1"}),
        ("e.mkv", "libx264", {"bf": "2"}),
    ],
)
@pytest.mark.parametrize("frames", [1, 5, 27])
def test_frames_are_those_of_a_sequential_decode(tmp_path, name, codec, options, frames):
    file = write_clip(tmp_path / name, frames, codec=codec, noise=4, **options)
    wanted = positions(frames, Sampling())
    medium, truth = decoded(file), all_frames(file)
    assert len(truth) == frames
    assert medium.frame_index == wanted
    assert [number_of(f) for f in medium.frames] == list(wanted)
    for stored, position in zip(medium.frames, wanted, strict=True):
        assert np.array_equal(load_frame(stored), truth[position][1])
    assert medium.pts_s == pytest.approx([truth[p][0] for p in wanted], abs=1e-6)
    assert (medium.width, medium.height) == (80, 48)
    assert medium.evidence == ("clean",) * 8


def test_a_gif_is_a_video(tmp_path):
    medium = decoded(write_gif(tmp_path / "g.gif", frames=15, step_ms=80))
    assert [number_of(f) for f in medium.frames] == list(positions(15, Sampling()))
    assert medium.pts_s == pytest.approx([0.08 * p for p in medium.frame_index], abs=0.02)


def test_variable_frame_rate_keeps_true_times(tmp_path):
    times = [0, 40, 50, 400, 410, 1000, 1010, 2000]  # milliseconds
    write_times(tmp_path / "v.mkv", times)
    medium = decoded(tmp_path / "v.mkv")
    assert [number_of(f) for f in medium.frames] == list(range(8))
    assert medium.pts_s == pytest.approx([t / 1000 for t in times], abs=1e-3)


def test_decord_agrees_on_which_frames(tmp_path):
    file = write_clip(tmp_path / "a.mp4", 27)
    ours, theirs = decoded(file), decoded(file, decoder="decord")
    assert theirs.frame_index == ours.frame_index
    assert [number_of(f) for f in theirs.frames] == [number_of(f) for f in ours.frames]
    assert theirs.pts_s == pytest.approx(ours.pts_s, abs=1e-3)


def test_a_rotated_clip_stands_upright(tmp_path):
    """The display matrix says a quarter turn, as of a phone held upright."""
    plain = write_clip(tmp_path / "plain.mp4", 3)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(_with_quarter_turn(plain.read_bytes()))
    medium = decoded(turned)
    assert (medium.width, medium.height) == (48, 80)
    upright = load_frame(medium.frames[0])
    back = np.rot90(upright, 1), np.rot90(upright, -1)
    with av.open(str(turned)) as container:
        degrees = next(container.decode(video=0)).rotation
    assert abs(degrees) == 90
    # FFmpeg: rotation is counter-clockwise, so an upright picture is the stored one turned that way.
    assert number_of(back[1] if degrees == 90 else back[0]) == 0
    assert np.array_equal(upright, np.rot90(all_frames(turned)[0][1], round(degrees / 90)))


def _with_quarter_turn(data: bytes) -> bytes:
    """An mp4 whose track header holds the matrix of a turn by 90 degrees."""
    place = data.index(b"tkhd") + 4 + 40  # version 0: the matrix stands 40 bytes into the box's body
    numbers = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    matrix = b"".join(n.to_bytes(4, "big", signed=True) for n in numbers)
    assert data[place : place + 4] == (1 << 16).to_bytes(4, "big")  # the identity stood here
    return data[:place] + matrix + data[place + 36 :]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_images_of_any_mode(tmp_path, mode):
    file = tmp_path / ("i.jpg" if mode == "CMYK" else "i.png")
    Image.new(mode, (30, 20)).save(file)
    medium = decoded(file, MediumKind.IMAGE)
    assert (len(medium.frames), medium.frame_index, medium.pts_s) == (1, (0,), (0.0,))
    assert load_frame(medium.frames[0]).shape == (20, 30, 3)


def test_an_image_shows_what_it_showed(tmp_path):
    medium = decoded(write_image(tmp_path / "i.png", 37), MediumKind.IMAGE)
    assert number_of(medium.frames[0]) == 37
    assert len(medium.sha256) == 64


def test_a_short_clip_is_encoded_once_per_position(tmp_path):
    medium = decoded(write_clip(tmp_path / "a.mp4", 1))
    assert len(set(medium.frames)) == 1
    assert len(medium.frames) == 8


@pytest.mark.parametrize("codec", ["jpeg", "lossless"])
def test_a_rendition_scales_the_shorter_side(codec):
    stored = store_frame(picture(341, (200, 100)), Rendition(short_side=50, codec=codec))
    with Image.open(io.BytesIO(stored)) as opened:
        assert opened.size == (100, 50)
        assert opened.format == ("JPEG" if codec == "jpeg" else "PNG")
    assert number_of(stored) == 341


def test_scaled_sizes():
    assert scaled_size(640, 480, 224) == (299, 224)
    assert scaled_size(100, 80, 224) == (100, 80)  # never enlarged
    assert scaled_size(5000, 10, 8) == (4000, 8)


def test_the_perceptual_hash_knows_near_from_far():
    def bits(one: str, other: str) -> int:
        return (int(one, 16) ^ int(other, 16)).bit_count()

    base = perceptual_hash(picture(341, (200, 100)))
    again = Image.open(
        io.BytesIO(store_frame(picture(341, (200, 100)), Rendition(short_side=60, quality=60)))
    )
    assert bits(base, perceptual_hash(again)) <= 6
    assert bits(base, perceptual_hash(picture(682, (200, 100)))) > 20
