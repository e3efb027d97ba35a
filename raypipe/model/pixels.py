"""Stored frames -> the pixels a vision tower takes, by one of two recipes.

``antialias`` scales pictures of 8 bits with PIL's bicubic filter, which takes all pixels into account.
``reference`` does as the reference's own transforms do: float pictures, a bilinear filter for video and a
bicubic one for images, neither with antialiasing, so that what lies between the sampled pixels is lost. It is
meant for frames stored without loss in their own size. The reference normalises a video before it scales it;
as scaling takes means whose weights add up to one, doing so after gives the same but for rounding.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from raypipe.media.rendition import load_frame
from raypipe.records import MediumKind

if TYPE_CHECKING:  # workers that only scale pictures do without
    import torch

Colour = tuple[float, float, float]
Stored = bytes | memoryview | np.ndarray
_scratch = threading.local()
SCRATCH_BYTES = 4 << 20  # most that a thread keeps
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PAD_COLOUR = (122, 116, 104)  # int(CLIP mean * 255), as the reference pads


@dataclass(frozen=True)
class Look:
    """How media are shown to one model.

    Attributes:
        side: of the square pictures that its towers take, in pixels.
        aspect: "pad" puts an image on a square canvas of the mean colour first, "square" crops its centre; a
            video frame is always cropped, as in the reference.
        recipe: "antialias" or "reference".
        mean, std: by channel, of pixels between 0 and 1.
    """

    side: int
    aspect: str = "pad"
    recipe: str = "antialias"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD

    def blank(self, count: int) -> np.ndarray:
        """Room for that many frames."""
        kind = np.uint8 if self.recipe == "antialias" else np.float32
        return np.empty((count, self.side, self.side, 3), kind)

    def frames(self, stored: Sequence[Stored], kind: MediumKind, out: np.ndarray | None = None) -> np.ndarray:
        """One medium's frames [N, side, side, 3], scaled but not normalised: what waits for its batch.

        Args:
            stored: JPEG or PNG files, or pictures [height, width, 3] of 8 bits.
            out: where they are put; None: in new memory.

        Returns:
            8 bits under ``antialias``, float32 from 0 to 1 (and a little beyond) under ``reference``.
        """
        pad = self.aspect == "pad" and kind is MediumKind.IMAGE
        colour = (int(self.mean[0] * 255), int(self.mean[1] * 255), int(self.mean[2] * 255))
        if self.recipe == "antialias":
            made = self.blank(len(stored)) if out is None else out
            return _each(stored, lambda picture: fit(picture, self.side, pad=pad, colour=colour), made)
        mode = "bicubic" if kind is MediumKind.IMAGE else "bilinear"

        def scaled(picture: np.ndarray) -> np.ndarray:
            return sampled(on_canvas(picture, colour) if pad else picture, self.side, mode)

        return _each(stored, scaled, self.blank(len(stored)) if out is None else out)

    def pixels(
        self,
        frames_NHWC: np.ndarray | torch.Tensor,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> torch.Tensor:
        """What ``frames`` made of one or more media -> normalised [N, 3, side, side], float32 unless said."""
        return normalised(frames_NHWC, dtype, device, self.mean, self.std)


def frames_uint8(frames: Sequence[bytes], kind: MediumKind, side: int, aspect: str) -> np.ndarray:
    """Stored frames as uint8 [frames, side, side, 3], by the recipe ``antialias``."""
    return Look(side, aspect).frames(frames, kind)


def fit(
    picture_HWC: np.ndarray, side: int, *, pad: bool, colour: tuple[int, int, int] = PAD_COLOUR
) -> np.ndarray:
    """A picture of any size as uint8 [side, side, 3]: padded or centre-cropped, then scaled (bicubic)."""
    height, width = picture_HWC.shape[:2]
    if height == width == side:
        return picture_HWC
    if min(height, width) == side and not pad:  # as stored by prepare: nothing is scaled
        top, left = round((height - side) / 2), round((width - side) / 2)
        return picture_HWC[top : top + side, left : left + side]
    picture = Image.fromarray(on_canvas(picture_HWC, colour) if pad else picture_HWC)
    short = min(picture.size)
    if short != side:
        scaled = (int(picture.width * side / short), int(picture.height * side / short))
        picture = picture.resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


def on_canvas(picture_HWC: np.ndarray, colour: tuple[int, int, int] = PAD_COLOUR) -> np.ndarray:
    """A picture in the middle of a square canvas as long as its longer side."""
    height, width = picture_HWC.shape[:2]
    if height == width:
        return picture_HWC
    long = max(height, width)
    canvas = np.empty((long, long, 3), dtype=np.uint8)
    canvas[:] = colour
    top, left = (long - height) // 2, (long - width) // 2
    canvas[top : top + height, left : left + width] = picture_HWC
    return canvas


def sampled(picture_HWC: np.ndarray, side: int, mode: str) -> np.ndarray:
    """The middle [side, side, 3] of a picture as float32, scaled without antialiasing and not clamped."""
    import torch
    from torch.nn import functional

    height, width = picture_HWC.shape[:2]
    short = min(height, width)
    picture: Any = torch.from_numpy(picture_HWC.astype(np.float32)).permute(2, 0, 1).unsqueeze(0) / 255.0
    if short != side:
        # The reference's transforms for video and for images divide in another order; it may be a pixel.
        longer = max(height, width)
        long = math.floor(longer / short * side) if mode == "bilinear" else int(side * longer / short)
        size = (side, long) if width >= height else (long, side)
        picture = functional.interpolate(picture, size=size, mode=mode, align_corners=False)
    top, left = round((picture.shape[2] - side) / 2), round((picture.shape[3] - side) / 2)
    return picture[0, :, top : top + side, left : left + side].permute(1, 2, 0).numpy()


def normalised(
    frames_NHWC: np.ndarray | torch.Tensor,
    dtype: torch.dtype | None,
    device: torch.device | str = "cpu",
    mean: Colour = CLIP_MEAN,
    std: Colour = CLIP_STD,
) -> torch.Tensor:
    """Frames [N, H, W, 3], 8 bits or float from 0 to 1 -> normalised [N, 3, H, W], float32 unless said."""
    import torch

    if isinstance(frames_NHWC, np.ndarray):
        frames_NHWC = torch.from_numpy(np.ascontiguousarray(frames_NHWC))
    pixels = frames_NHWC.to(device, non_blocking=True).permute(0, 3, 1, 2)
    pixels = pixels.float() / 255.0 if pixels.dtype == torch.uint8 else pixels
    centre = torch.tensor(mean, device=device).view(1, 3, 1, 1)
    return ((pixels - centre) / torch.tensor(std, device=device).view(1, 3, 1, 1)).to(dtype or torch.float32)


def _each(stored: Sequence[Stored], make: Callable[[np.ndarray], np.ndarray], out: np.ndarray) -> np.ndarray:
    """Puts down what is made of each frame; one that is repeated, as in a short clip, is made once."""
    for place, frame in enumerate(stored):
        if isinstance(frame, np.ndarray):
            out[place] = make(frame)
        elif place and _same(frame, stored[place - 1]):
            out[place] = out[place - 1]
        else:
            room = out[place]
            picture = load_frame(frame, partial(_room, room))
            if picture.base is not room:  # else it lies there already, in the size that is wanted
                room[:] = make(picture)
    return out


def _room(wanted: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """Where a frame is decoded to: where it is wanted, or what this thread keeps for frames to be cut."""
    if wanted.shape == (height, width, 3) and wanted.dtype == np.uint8:
        return wanted
    size = height * width * 3
    if size > SCRATCH_BYTES:
        return None
    kept = getattr(_scratch, "kept", None)
    if kept is None or len(kept) < size:
        kept = _scratch.kept = np.empty(size, np.uint8)
    return kept


def _same(frame: bytes | memoryview, other: Stored) -> bool:
    return not isinstance(other, np.ndarray) and len(frame) == len(other) and frame == other
