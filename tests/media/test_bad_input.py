"""Bad media: each ends with its typed reason, and never with a frame that is not in the file."""

import os
import random
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from raypipe.media.decode import DecodeRequest, decode
from raypipe.media.fault import MediumError
from raypipe.media.rendition import load_frame
from raypipe.records import MediumKind, Reason
from raypipe.settings import Rendition, Sampling
from tests.support.clips import all_frames, write_clip, write_image

LOSSLESS = Rendition(codec="lossless", short_side=1000)


def fault(root: Path, path: str, kind: MediumKind = MediumKind.VIDEO, **more) -> Reason:
    with pytest.raises(MediumError) as raised:
        decode(DecodeRequest("k", kind, str(root), path, Sampling(), LOSSLESS, **more))
    assert raised.value.detail
    return raised.value.reason


def test_missing(tmp_path):
    assert fault(tmp_path, "no.mp4") is Reason.MEDIA_MISSING
    (tmp_path / "file").write_text("x")
    assert fault(tmp_path, "file/no.mp4") is Reason.MEDIA_MISSING


@pytest.mark.parametrize("kind", MediumKind)
def test_empty(tmp_path, kind):
    (tmp_path / "a").touch()
    assert fault(tmp_path, "a", kind) is Reason.MEDIA_EMPTY


@pytest.mark.parametrize("kind", MediumKind)
@pytest.mark.parametrize("text", ["<html>not found</html>" * 50, "x"])
def test_text_with_the_name_of_a_medium(tmp_path, text, kind):
    (tmp_path / "a.mp4").write_text(text)
    assert fault(tmp_path, "a.mp4", kind) is Reason.MEDIA_UNREADABLE


@pytest.mark.parametrize(
    "path", ["../out.mp4", "in/../../out.mp4", "{out}", "http://x/a.mp4", "a\0.mp4", "file:a"]
)
def test_paths_that_lead_out(tmp_path, path):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    out = write_clip(tmp_path / "out.mp4", 2)
    expected = Reason.MEDIA_MISSING if path == "file:a" else Reason.MEDIA_OUTSIDE_ROOT
    assert fault(root, path.format(out=out)) is expected


@pytest.mark.parametrize("link_folder", [False, True])
def test_links(tmp_path, link_folder):
    out, root = tmp_path / "out", tmp_path / "root"
    write_clip(out / "a.mp4", 2)
    root.mkdir()
    if link_folder:
        (root / "in").symlink_to(out)
        assert fault(root, "in/a.mp4") is Reason.MEDIA_OUTSIDE_ROOT
    else:
        (root / "a.mp4").symlink_to(out / "a.mp4")
        assert fault(root, "a.mp4") is Reason.MEDIA_OUTSIDE_ROOT
    (root / "circle").symlink_to(root / "circle")
    assert fault(root, "circle") is Reason.MEDIA_UNREADABLE
    write_clip(root / "real.mp4", 2)
    (root / "inside").symlink_to(root / "real.mp4")
    assert decode(DecodeRequest("k", MediumKind.VIDEO, str(root), "inside", Sampling(), LOSSLESS))


def test_what_is_no_regular_file(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert fault(tmp_path, "folder.mp4") is Reason.MEDIA_UNREADABLE
    assert fault(tmp_path, "pipe.mp4") is Reason.MEDIA_UNREADABLE
    assert fault(tmp_path, ".") is Reason.MEDIA_UNREADABLE


@pytest.mark.parametrize("path", ["\ud800.mp4", "x" * 5000])
def test_names_no_file_system_takes(tmp_path, path):
    assert fault(tmp_path, path) is Reason.MEDIA_UNREADABLE


@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_cut_with_the_index_at_the_end(tmp_path, share):
    file = write_clip(tmp_path / "a.mp4", 30, noise=10)
    data = file.read_bytes()
    assert data.index(b"mdat") < data.index(b"moov")
    file.write_bytes(data[: int(data.index(b"moov") * share)])
    assert fault(tmp_path, "a.mp4") is Reason.MEDIA_UNREADABLE


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_cut_with_the_index_in_front(tmp_path, share):
    file = write_clip(tmp_path / "a.mp4", 40, noise=10, bf="0", g="10", movflags="+faststart")
    data = file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    body = data.index(b"mdat")
    file.write_bytes(data[: body + int((len(data) - body) * share)])
    assert fault(tmp_path, "a.mp4") in (
        Reason.MEDIA_TRUNCATED,
        Reason.FRAMES_DAMAGED,
        Reason.MEDIA_UNREADABLE,
    )


def test_overwritten_bytes_are_mostly_refused(tmp_path):
    """200 bytes of the pictures are overwritten. H.264 has no checksum: some decode all the same.

    Damage to frames that no asked-for frame needs is no reason to refuse: those clips are right.
    """
    file = write_clip(tmp_path / "a.mp4", 40, size=(160, 96), noise=10, g="10")
    truth, good = [pixels for _, pixels in all_frames(file)], file.read_bytes()
    body, end = good.index(b"mdat") + 8, good.index(b"moov") - 4
    refused = right = wrong = 0
    for seed in range(30):
        data, dice = bytearray(good), random.Random(seed)
        place = dice.randrange(body + 100, end - 300)
        data[place : place + 200] = dice.randbytes(200)
        file.write_bytes(data)
        try:
            medium = decode(
                DecodeRequest("k", MediumKind.VIDEO, str(tmp_path), "a.mp4", Sampling(), LOSSLESS)
            )
        except MediumError as fault:
            refused += fault.reason in (Reason.FRAMES_DAMAGED, Reason.MEDIA_UNREADABLE)
        else:
            shown = zip(medium.frames, medium.frame_index, strict=True)
            same = all(np.array_equal(load_frame(f), truth[p]) for f, p in shown)
            right, wrong = right + same, wrong + (not same)
    assert refused >= 15
    assert refused + right + wrong == 30
    assert wrong <= 4, f"{refused} refused, {right} untouched, {wrong} wrong"


def test_most_overwritten_clips_are_refused(tmp_path):
    """The fault above really fires: zeros over a third of the pictures are always seen."""
    file = write_clip(tmp_path / "a.mp4", 40, noise=10, g="10")
    data = bytearray(file.read_bytes())
    start, end = data.index(b"mdat") + 8, data.index(b"moov") - 8
    third = (end - start) // 3
    data[start + third : start + 2 * third] = bytes(third)
    file.write_bytes(data)
    assert fault(tmp_path, "a.mp4") in (Reason.FRAMES_DAMAGED, Reason.MEDIA_UNREADABLE)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert fault(tmp_path, "a.mp4") is Reason.MEDIA_NO_VIDEO


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.ts\n",
    ],
)
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_playlist_leads_nowhere(tmp_path, monkeypatch, playlist, decoder):
    write_clip(tmp_path / "secret.ts", 12)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_text(playlist)
    assert fault(tmp_path, "a.mp4", decoder=decoder) is Reason.MEDIA_UNREADABLE


def test_pictures_too_large(tmp_path):
    write_image(tmp_path / "i.png", size=(200, 100))
    assert fault(tmp_path, "i.png", MediumKind.IMAGE, max_pixels=19_999) is Reason.IMAGE_TOO_LARGE
    write_clip(tmp_path / "v.mp4", 2, size=(200, 100))
    assert fault(tmp_path, "v.mp4", max_pixels=19_999) is Reason.VIDEO_TOO_LARGE


def test_a_bomb_is_refused_by_its_header(tmp_path):
    Image.new("1", (1, 1)).save(tmp_path / "i.png")
    data = bytearray((tmp_path / "i.png").read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    (tmp_path / "i.png").write_bytes(data)
    assert fault(tmp_path, "i.png", MediumKind.IMAGE) is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("name", ["i.png", "i.jpg"])
def test_damaged_images(tmp_path, name):
    file = write_image(tmp_path / name, 341, size=(400, 300))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert fault(tmp_path, name, MediumKind.IMAGE) is Reason.MEDIA_UNREADABLE
    file.write_bytes(data[:20] + b"\xff" * 10 + data[30:])
    if name == "i.png":
        assert fault(tmp_path, name, MediumKind.IMAGE) is Reason.MEDIA_UNREADABLE


def test_a_video_where_an_image_should_be(tmp_path):
    write_clip(tmp_path / "a.mp4", 3)
    assert fault(tmp_path, "a.mp4", MediumKind.IMAGE) is Reason.MEDIA_UNREADABLE


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_decord_refuses_too(tmp_path, damage):
    file = write_clip(tmp_path / "a.mp4", 20)
    data = {"empty": b"", "text": b"no video" * 100, "cut": file.read_bytes()[:600]}[damage]
    file.write_bytes(data)
    expected = Reason.MEDIA_EMPTY if damage == "empty" else Reason.MEDIA_UNREADABLE
    assert fault(tmp_path, "a.mp4", decoder="decord") is expected
