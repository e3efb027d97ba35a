"""Small batches of every kind for a tiny model, made through the real chat encoder and collation."""

from __future__ import annotations

import numpy as np
import torch

from raypipe.model.build import LoadedModel
from raypipe.model.splice import Batch
from raypipe.records import MediumKind, Turn
from raypipe.train.collate import collate
from raypipe.train.examples import Example
from tests.support.clips import picture

IMAGE, VIDEO = MediumKind.IMAGE, MediumKind.VIDEO
MIXES = {
    "image": [(IMAGE,)],
    "video": [(VIDEO,)],
    "text": [()],
    "both": [(VIDEO, IMAGE)],
    "images": [(IMAGE, IMAGE)],
    "mixed": [(IMAGE,), (), (VIDEO,), (VIDEO, IMAGE, IMAGE)],
}


def example(loaded: LoadedModel, kinds: tuple[MediumKind, ...], number: int) -> Example:
    tags = "".join(f"<{kind}>" for kind in kinds)
    turns = [Turn("human", f"{tags}\nWhich number {number}?"), Turn("gpt", f"It is {number}.")]
    turns += [Turn("human", "Are you sure?"), Turn("gpt", "Yes" + ", sure" * number)]
    pixels = []
    for place, kind in enumerate(kinds):
        frames = 8 if kind is VIDEO else 1
        shown = [np.asarray(picture(5 + 17 * number + 3 * place + f, (28, 28))) for f in range(frames)]
        pixels.append((kind, np.stack(shown)))
    return Example(number, f"sample {number}", loaded.chat("v1").training(turns, kinds), tuple(pixels))


def batch(
    loaded: LoadedModel,
    mix: str,
    *,
    counts: bool = True,
    dtype: torch.dtype = torch.float32,
    first: int = 0,
) -> Batch:
    """One row a sample; ``first`` is the number of the first one, which its text and its pixels tell."""
    examples = [example(loaded, kinds, number) for number, kinds in enumerate(MIXES[mix], start=first)]
    return collate([(e,) for e in examples], dtype, counts=counts)


def theirs(model, made: Batch):
    """transformers' own forward with pixel inputs."""
    pixels = {}
    onevision = model.config.model_type == "llava_onevision"
    if IMAGE in made.pixels:
        images = made.pixels[IMAGE]
        if onevision:  # as images of one sample: then each is one view and is not cut into tiles
            pixels["image_sizes"] = torch.tensor([images.shape[-2:]] * len(images))
            pixels["batch_num_images"] = torch.tensor([max(2, len(images))])
        pixels["pixel_values" if onevision else "pixel_values_images"] = images
    if VIDEO in made.pixels:
        frames = made.pixels[VIDEO]
        pixels["pixel_values_videos"] = frames.view(-1, 8, *frames.shape[1:])
    return model(input_ids=made.ids_BL, attention_mask=made.mask_BL, labels=made.labels_BL, **pixels)
