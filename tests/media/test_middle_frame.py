"""The frame from the middle of a part of a video: the rule, and what is written of whole and broken files."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from raypipe.media.fault import MediumError
from raypipe.media.middle_frame import Clip, write_middle_frames
from raypipe.media.sampling import middle_position
from raypipe.records import Reason
from raypipe.store.files import Store
from tests.support.clips import all_frames, number_of, write_clip
from tests.support.damage import damaged

WHOLE = ("whole", 0.0, 0.0)


@pytest.mark.parametrize(
    ("count", "rate", "part", "position"),
    [
        (1, 25, WHOLE, 0),
        (2, 25, WHOLE, 0),
        (4, 25, WHOLE, 1),
        (13, 25, WHOLE, 5),  # int((12 - 1) / 2): one before the middle
        (100, 25, ("seconds", 1.0, 3.0), 49),
        (100, 10, ("seconds", 1.05, 3.09), 19),  # 10 to 30
        (100, 10, ("seconds", 9.0, 20.0), 94),  # 90 to 99
        (100, 10, ("seconds", 60.0, 70.0), 99),
        (100, 10, ("seconds", 2.0, 2.01), 20),
        (100, 10, ("frames", 30, 61), 45),
        (100, 10, ("frames", 30, 30), 30),
        (100, 10, ("frames", 90, 130), 94),  # 90 to 100
    ],
)
def test_the_rule(count, rate, part, position):
    assert middle_position(count, rate, part) == position


@pytest.mark.parametrize(
    ("rate", "part", "reason"),
    [
        (10, ("seconds", 3.0, 2.0), Reason.BAD_RECORD),
        (10, ("seconds", -1.0, 2.0), Reason.BAD_RECORD),
        (10, ("frames", 0, math.inf), Reason.BAD_RECORD),
        (10, ("frames", math.nan, 5), Reason.BAD_RECORD),
        (10, ("frames", 100, 130), Reason.BAD_RECORD),
        (0, ("seconds", 1.0, 2.0), Reason.MEDIA_UNREADABLE),
    ],
)
def test_a_part_that_is_not_there_is_refused(rate, part, reason):
    with pytest.raises(MediumError) as fault:
        middle_position(100, rate, part)
    assert fault.value.reason is reason


def test_frames_of_whole_and_of_broken_videos(tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "out"
    whole = write_clip(folder / "a.mp4", frames=40)
    noisy = write_clip(folder / "noisy.mp4", frames=40, noise=40.0)
    (folder / "broken.mp4").write_bytes(damaged(noisy.read_bytes(), ".mp4", "hole", 3))
    (folder / "text.mp4").write_text("<html>")
    clips = {
        "whole.png": Clip(folder, "a.mp4", WHOLE),
        "seconds.png": Clip(folder, "a.mp4", ("seconds", 1.0, 3.0)),
        "frames.png": Clip(folder, "a.mp4", ("frames", 4, 9)),
        "past.png": Clip(folder, "a.mp4", ("frames", 40, 48)),
        "gone.png": Clip(folder, "gone.mp4", WHOLE),
        "text.png": Clip(folder, "text.mp4", WHOLE),
        "broken.png": Clip(folder, "broken.mp4", WHOLE),
        "outside.png": Clip(folder, "../out.mp4", WHOLE),
        "last.png": Clip(folder, "a.mp4", ("frames", 20, 20)),
    }
    found = write_middle_frames(clips, Store(str(out)))
    assert (found.written, found.present) == (4, 0)
    assert {name: rejection.reason for name, rejection in found.refused.items()} == {
        "past.png": Reason.BAD_RECORD,
        "gone.png": Reason.MEDIA_MISSING,
        "text.png": Reason.MEDIA_UNREADABLE,
        "broken.png": Reason.FRAMES_DAMAGED,
        "outside.png": Reason.MEDIA_OUTSIDE_ROOT,
    }
    shown = {file.name: number_of(file.read_bytes()) for file in out.iterdir()}
    assert shown == {"whole.png": 19, "seconds.png": 19, "frames.png": 6, "last.png": 20}
    plain = all_frames(whole)[19][1]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO((out / "whole.png").read_bytes()))), plain)
    again = write_middle_frames(clips, Store(str(out)))
    assert (again.written, again.present, len(again.refused)) == (0, 4, 5)
