"""A video's pictures pass one at a time: what stays of each is its stored frame."""

import weakref
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from raypipe.media import decode as module
from raypipe.media import video
from raypipe.media.rendition import load_frame, perceptual_hash
from raypipe.records import MediumKind
from raypipe.settings import Rendition, Sampling
from tests.support.clips import number_of, picture


def test_one_picture_is_held_at_a_time_and_encoded_once(tmp_path, monkeypatch):
    positions = [0, 0, 1, 2, 2, 2, 3, 9]
    held: list[weakref.ref[Image.Image]] = []
    most, encoded = 0, []
    store_frame = module.store_frame

    def read_video(file: Path, request: module.DecodeRequest):
        nonlocal most
        for number in positions:
            image = picture(number)
            held.append(weakref.ref(image))
            shown = SimpleNamespace(position=number, time_s=number / 10, image=image, evidence="clean")
            del image
            yield shown
            del shown
            most = max(most, sum(ref() is not None for ref in held))

    def counted(image, rendition):
        encoded.append(number_of(image))
        return store_frame(image, rendition)

    monkeypatch.setattr(video, "read_video", read_video)
    monkeypatch.setattr(module, "store_frame", counted)
    (tmp_path / "a.mp4").write_bytes(b"any")
    request = module.DecodeRequest("k", MediumKind.VIDEO, str(tmp_path), "a.mp4", Sampling(), Rendition())
    medium = module.decode(request)
    assert len(held) == 8
    assert most == 0  # when the reader goes on, nothing of what it gave is left
    assert encoded == [0, 1, 2, 3, 9]
    assert [number_of(f) for f in medium.frames] == positions
    assert medium.frame_index == tuple(positions)
    assert medium.pts_s == (0.0, 0.0, 0.1, 0.2, 0.2, 0.2, 0.3, 0.9)
    assert medium.phash == perceptual_hash(Image.fromarray(load_frame(medium.frames[4])))
