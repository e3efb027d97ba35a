"""Stored frames -> the pixels a vision tower takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from raypipe.media.rendition import load_frame
from raypipe.model.video_llava_hf import CLIP_MEAN, CLIP_STD
from raypipe.records import MediumKind

PAD_COLOUR = (122, 116, 104)  # int(CLIP mean * 255), as the reference pads


def frames_uint8(frames: Sequence[bytes], kind: MediumKind, side: int, aspect: str) -> np.ndarray:
    """Stored frames as uint8 [frames, side, side, 3].

    Args:
        aspect: "pad" puts an image on a square canvas first, "square" crops its centre; a video
            frame is always cropped, as in the reference.
    """
    pad = aspect == "pad" and kind is MediumKind.IMAGE
    done: dict[bytes, np.ndarray] = {}
    for data in frames:
        if data not in done:
            done[data] = fit(load_frame(data), side, pad=pad)
    return np.stack([done[data] for data in frames])


def fit(picture_HWC: np.ndarray, side: int, *, pad: bool) -> np.ndarray:
    """A picture of any size as uint8 [side, side, 3]: padded or centre-cropped, then scaled (bicubic)."""
    height, width = picture_HWC.shape[:2]
    if height == width == side:
        return picture_HWC
    picture = Image.fromarray(picture_HWC)
    if pad and height != width:
        long = max(height, width)
        canvas = Image.new("RGB", (long, long), PAD_COLOUR)
        canvas.paste(picture, ((long - width) // 2, (long - height) // 2))
        picture = canvas
    short = min(picture.size)
    if short != side:
        scaled = (int(picture.width * side / short), int(picture.height * side / short))
        picture = picture.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


def normalised(
    frames_NHWC: np.ndarray, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> CLIP-normalised [N, 3, H, W]."""
    pixels = (
        torch.from_numpy(np.ascontiguousarray(frames_NHWC)).to(device).permute(0, 3, 1, 2).float() / 255.0
    )
    mean = torch.tensor(CLIP_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD, device=device).view(1, 3, 1, 1)
    return ((pixels - mean) / std).to(dtype)
