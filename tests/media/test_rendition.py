"""Stored frames come back with the same pixels, whichever way they are read."""

import io

import numpy as np
import pytest
from PIL import Image

from raypipe.media.rendition import load_frame, store_frame
from raypipe.settings import Rendition


def drawn(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    return small.resize((131, 77), Image.Resampling.BICUBIC).convert(mode)


def saved(picture: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, options.pop("format", "JPEG"), **options)
    return out.getvalue()


@pytest.mark.parametrize("options", [
    {"quality": 95, "subsampling": 0},
    {"quality": 80, "subsampling": 2},
    {"quality": 60, "subsampling": 1, "progressive": True},
    {"quality": 90, "restart_marker_blocks": 3},
    {"format": "PNG"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pixels_are_those_of_pillow(options, mode):
    if mode == "CMYK" and options.get("format") == "PNG":
        mode = "P"
    data = saved(drawn(mode), **options)
    wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(load_frame(data), wanted)


@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:0"])
def test_a_stored_frame_is_read_back_in_its_size(chroma):
    shown = load_frame(store_frame(drawn(), Rendition(short_side=40, chroma=chroma)))
    assert shown.shape == (40, 68, 3)
    assert shown.dtype == np.uint8


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_a_frame_cut_short_is_refused(keep):
    data = saved(drawn(), quality=95)
    with pytest.raises(OSError, match="truncated"):
        load_frame(data[: int(len(data) * keep)])
