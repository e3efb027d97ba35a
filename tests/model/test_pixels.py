"""From stored frames to what a vision tower takes."""

import dataclasses

import numpy as np
import pytest
import torch

from raypipe.media.rendition import load_frame, store_frame
from raypipe.model.pixels import PAD_COLOUR, Look, fit, frames_uint8, normalised
from raypipe.model.video_llava_hf import CLIP_MEAN, CLIP_STD
from raypipe.records import MediumKind
from raypipe.settings import Rendition
from tests.support.clips import number_of, picture

LOSSLESS = Rendition(codec="lossless", short_side=1000)
RED = (250, 10, 10)


def plain(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), RED, dtype=np.uint8)


def test_the_canvas_is_the_mean_and_the_picture_in_its_middle():
    assert tuple(int(m * 255) for m in CLIP_MEAN) == PAD_COLOUR
    square = fit(plain(40, 21), 40, pad=True)
    assert square.shape == (40, 40, 3)
    top = (40 - 21) // 2
    assert (square[:top] == PAD_COLOUR).all()
    assert (square[top : top + 21] == RED).all()
    assert (square[top + 21 :] == PAD_COLOUR).all()
    side = fit(plain(21, 40), 40, pad=True)
    assert (side == square.transpose(1, 0, 2)).all()


@pytest.mark.parametrize("size", [(28, 28), (80, 48), (48, 80), (29, 28), (500, 17), (17, 500), (5, 5)])
@pytest.mark.parametrize("pad", [True, False])
def test_any_size_becomes_the_square(size, pad):
    assert fit(plain(*size), 28, pad=pad).shape == (28, 28, 3)


def test_a_crop_takes_the_middle():
    wide = np.zeros((28, 84, 3), dtype=np.uint8)
    wide[:, 28:56] = 255
    assert (fit(wide, 28, pad=False) == 255).all()


def test_only_images_are_padded():
    stored = [store_frame(picture(3, (80, 40)), LOSSLESS)]
    assert number_of(frames_uint8(stored, MediumKind.IMAGE, 40, "pad")[0][10:30]) == 3
    video, square = (frames_uint8(stored, k, 40, "pad") for k in (MediumKind.VIDEO, MediumKind.IMAGE))
    cropped = frames_uint8(stored, MediumKind.IMAGE, 40, "square")
    assert np.array_equal(video, cropped)
    assert not np.array_equal(square, cropped)


def test_frames_keep_their_order():
    stored = [store_frame(picture(n), LOSSLESS) for n in (5, 9, 5, 2)]
    shown = frames_uint8(stored, MediumKind.VIDEO, 48, "pad")
    assert shown.shape == (4, 48, 48, 3)
    assert np.array_equal(shown[0], shown[2])
    assert not np.array_equal(shown[0], shown[1])


def test_a_look_has_the_colours_of_its_model():
    half = Look(40, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    for recipe in ("antialias", "reference"):
        look = dataclasses.replace(half, recipe=recipe)
        frames = look.frames([plain(40, 20)], MediumKind.IMAGE)
        pixels = look.pixels(frames)
        assert pixels.shape == (1, 3, 40, 40)
        assert pixels[0, :, 0, 0].tolist() == pytest.approx([2 * 127 / 255 - 1] * 3, abs=1e-6)
        assert pixels[0, :, 20, 20].tolist() == pytest.approx([2 * c / 255 - 1 for c in RED], abs=1e-6)


def test_a_look_takes_stored_frames_and_pictures_alike():
    pictures = [picture(n, (60, 44)) for n in (5, 9, 5)]
    stored = [store_frame(p, LOSSLESS) for p in pictures]
    for recipe in ("antialias", "reference"):
        look = Look(28, "pad", recipe)
        for kind in MediumKind:
            shown = look.frames(stored, kind)
            assert shown.dtype == (np.uint8 if recipe == "antialias" else np.float32)
            assert np.array_equal(shown, look.frames([np.asarray(p) for p in pictures], kind))
            assert np.array_equal(shown[0], shown[2])
            assert not np.array_equal(shown[0], shown[1])


def test_frames_of_several_sizes_do_not_write_over_each_other():
    """One to be cut is decoded into memory that is used again, one of the right size where it is wanted."""
    sizes = [(60, 28), (28, 28), (28, 70), (40, 90), (28, 28), (60, 28)]
    stored = [store_frame(picture(n, size), Rendition(short_side=28)) for n, size in enumerate(sizes)]
    look = Look(28, "square")
    together = look.frames(stored, MediumKind.VIDEO)
    each = [look.frames([load_frame(frame)], MediumKind.VIDEO)[0] for frame in stored]
    assert np.array_equal(together, np.stack(each))
    assert np.array_equal(together, look.frames([memoryview(f) for f in stored], MediumKind.VIDEO))


def test_frames_may_be_stored_in_their_own_size():
    stored = store_frame(picture(3, (410, 231)), Rendition(codec="lossless", short_side=None))
    assert np.array_equal(load_frame(stored), np.asarray(picture(3, (410, 231))))


def test_normalised_is_clip():
    pixels = normalised(np.stack([plain(4, 4)]), torch.float32)
    assert pixels.shape == (1, 3, 4, 4)
    expected = [(c / 255 - m) / s for c, m, s in zip(RED, CLIP_MEAN, CLIP_STD, strict=True)]
    assert pixels[0, :, 2, 1].tolist() == pytest.approx(expected, abs=1e-6)
    assert normalised(np.stack([plain(4, 4)]), torch.bfloat16).dtype == torch.bfloat16
