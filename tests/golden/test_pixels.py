"""The recipe ``reference`` against traces of the reference's own transforms."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from raypipe.media.decode import DecodeRequest, decode
from raypipe.media.rendition import load_frame
from raypipe.model.pixels import PAD_COLOUR, Look, on_canvas
from raypipe.records import MediumKind
from raypipe.settings import Rendition, Sampling
from tests.support import reference_data

NATIVE = Rendition(short_side=None, codec="lossless")
VIDEOS = {"sample_demo_1": "v_baby_reading.mp4", "sample_demo_3": "v_toddler_room.mp4"}
IMAGES = {
    "waterview.jpg": "llava_image_tune",
    "extreme_ironing.jpg": "llava_image_tune",
    "sample_img_13.png": "llava_image",
    "sample_img_22.png": "llava_image",
}
CLOSE = {"atol": 1e-4, "rtol": 0}


def traces():
    folder = reference_data("golden") / "traces" / "pixels"
    return folder, json.loads((folder / "pixels.json").read_text())


def sha(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def shown(frames, kind: MediumKind, aspect: str = "square", recipe: str = "reference") -> torch.Tensor:
    look = Look(224, aspect, recipe)
    return look.pixels(look.frames(list(frames), kind))


def on_grid(pixels: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    return pixels[..., torch.tensor(places)[:, None], torch.tensor(places)[None, :]]


def check_stats(pixels_CX: torch.Tensor, stats: dict) -> None:
    """Mean, standard deviation and extremes by channel, and by frame for a video, of all pixels."""
    flat = pixels_CX.double().flatten(-2)
    found = {"mean": flat.mean(-1), "std": flat.std(-1, correction=0), "min": flat.amin(-1)}
    for name, values in {**found, "max": flat.amax(-1)}.items():
        theirs = torch.tensor(stats[name], dtype=torch.float64)
        torch.testing.assert_close(values, theirs, **CLOSE, msg=name)


def synthetic(shape: list[int]) -> np.ndarray:
    """The traces' formula: uint8 [frames, height, width, 3]."""
    t, h, w, c = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    value = 7 * t + 3 * h + 5 * w + 61 * c + (h * w) // 97 + ((h // 16 + w // 16) % 2) * 80
    return (value % 256).astype(np.uint8)


def test_synthetic_videos():
    folder, facts = traces()
    grids, checked = np.load(folder / "synthetic.npz"), 0
    for name, trace in facts["synthetic"].items():
        if name.startswith("video"):
            frames = synthetic(trace["shape_thwc"])
            assert sha(frames) == trace["input_sha256"]
            pixels = shown(frames, MediumKind.VIDEO).transpose(0, 1)
            assert list(pixels.shape) == trace["out_shape"]
            torch.testing.assert_close(
                on_grid(pixels, grids["grid_pos"]), torch.from_numpy(grids[name]), **CLOSE, msg=name
            )
            check_stats(pixels, trace["stats"])
            checked += 1
    assert checked == 5


def test_synthetic_images():
    folder, facts = traces()
    grids, checked = np.load(folder / "synthetic.npz"), 0
    for name, trace in facts["synthetic"].items():
        if name.startswith("image"):
            (picture,) = synthetic([1, *trace["shape_hwc"]])
            assert sha(picture) == trace["input_sha256"]
            assert sha(on_canvas(picture)) == trace["pad"]["uint8_sha256"]
            for aspect in ("square", "pad"):
                (pixels,) = shown([picture], MediumKind.IMAGE, aspect)
                theirs = torch.from_numpy(grids[f"{name}_{aspect}"])
                torch.testing.assert_close(on_grid(pixels, grids["grid_pos"]), theirs, **CLOSE, msg=name)
                check_stats(pixels, trace[aspect]["stats"])
            checked += 1
    assert checked == 6


@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_real_videos_from_file_to_pixels(name, decoder):
    """Stored without loss in their own size, then shown by the recipe; also where the decoder differs."""
    folder, facts = traces()
    trace = facts["videos"][f"{name}.mp4"]
    root = reference_data("real") / "DATA_ROOT" / "videochatgpt_tune"
    medium = decode(
        DecodeRequest("k", MediumKind.VIDEO, str(root), VIDEOS[name], Sampling(frames=8), NATIVE, decoder)
    )
    raw = [load_frame(frame) for frame in medium.frames]
    assert [len(raw), *raw[0].shape] == trace["raw_shape"]
    equal = [sha(f) for f in raw] == trace["raw_uint8_sha256_per_frame"]
    assert equal or decoder != "decord"
    pixels = shown(medium.frames, MediumKind.VIDEO).transpose(0, 1)
    theirs = np.load(folder / f"{name}.npz")
    grid = on_grid(pixels, theirs["grid_pos"])
    frame = pixels[:, int(theirs["frame_pos"])]
    if equal:
        torch.testing.assert_close(frame, torch.from_numpy(theirs["frame"]), **CLOSE)
        torch.testing.assert_close(grid, torch.from_numpy(theirs["grid"]), **CLOSE)
        check_stats(pixels, trace["stats"])
    assert float((frame - torch.from_numpy(theirs["frame"])).abs().mean()) < 0.02
    assert float((grid - torch.from_numpy(theirs["grid"])).abs().mean()) < 0.02


@pytest.mark.parametrize("name", IMAGES)
def test_real_images_from_file_to_pixels(name):
    folder, facts = traces()
    trace = facts["images"][name]
    root = reference_data("real") / "DATA_ROOT" / IMAGES[name]
    medium = decode(DecodeRequest("k", MediumKind.IMAGE, str(root), name, Sampling(), NATIVE))
    (stored,) = medium.frames
    raw = load_frame(stored)
    assert sha(raw) == trace["rgb_uint8_sha256"]
    assert sha(on_canvas(raw)) == trace["pad_uint8_sha256"]
    assert tuple(trace["pad_colour"]) == PAD_COLOUR
    theirs = np.load(folder / f"{name.replace('.', '_')}.npz")
    for aspect in ("square", "pad"):
        (pixels,) = shown([stored], MediumKind.IMAGE, aspect)
        check_stats(pixels, trace[aspect]["stats"])
        if aspect in theirs:
            torch.testing.assert_close(pixels, torch.from_numpy(theirs[aspect]), **CLOSE)
        else:
            grid = on_grid(pixels, theirs["grid_pos"])
            torch.testing.assert_close(grid, torch.from_numpy(theirs[f"{aspect}_grid"]), **CLOSE)
    # The other recipe is another one: this is what the comparison tells apart.
    (smooth,) = shown([stored], MediumKind.IMAGE, "square", "antialias")
    (sharp,) = shown([stored], MediumKind.IMAGE, "square")
    assert float((smooth - sharp).abs().mean()) > 0.005


def test_a_medium_of_the_right_size_is_the_same_by_either_recipe():
    picture = synthetic([1, 224, 224, 3])[0]
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    for kind in MediumKind:
        smooth, sharp = (shown([out.getvalue()], kind, "pad", r) for r in ("antialias", "reference"))
        torch.testing.assert_close(smooth, sharp, atol=1e-6, rtol=0)
