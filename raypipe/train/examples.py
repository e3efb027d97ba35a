"""A sample -> what the model is shown of it: token ids, labels, uint8 frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypipe.errors import RequestError
from raypipe.model.build import LoadedModel
from raypipe.model.pixels import frames_uint8
from raypipe.records import MediumKind, Sample
from raypipe.settings import StageSettings
from raypipe.text.chat import Encoded
from raypipe.train.mixture import Mixture


@dataclass(frozen=True)
class Example:
    """One sample ready for collation.

    Attributes:
        encoded: ids and labels, at most ``max_tokens`` long.
        pixels: uint8 frames [N, side, side, 3] of each medium, in the order of the placeholders.
        cut: its text was shortened to fit.
        fault: why it carries no labels although it is in the data ("" where it does): it does not fit.
    """

    number: int
    id: str
    encoded: Encoded
    pixels: tuple[tuple[MediumKind, np.ndarray], ...]
    cut: bool = False
    fault: str = ""


class Examples:
    """Samples -> Examples for one model."""

    def __init__(self, mixture: Mixture, loaded: LoadedModel, settings: StageSettings) -> None:
        self.mixture, self._settings = mixture, settings
        self.chat = loaded.chat(settings.template, settings.protocol)
        self._side, self._frames = loaded.side, loaded.family.frames(loaded.config)

    def __getitem__(self, number: int) -> Example:
        sample = self.mixture.sample(number)
        encoded = self.chat.training(sample.turns, sample.kinds)
        cut = len(encoded.ids) > self._settings.max_tokens
        if cut:
            encoded = self._shorten(sample, encoded)
        rows = self.mixture.media(number)
        for kind, row in zip(sample.kinds, rows, strict=True):
            if kind is MediumKind.VIDEO and len(row["frames"]) != self._frames:
                raise RequestError(
                    f"sample {sample.id}: {len(row['frames'])} frames for a model that takes {self._frames}",
                    f"prepare with sampling.policy=uniform sampling.frames={self._frames}",
                )
        aspect = self._settings.image_aspect
        pixels = tuple(
            (kind, frames_uint8(row["frames"], kind, self._side, aspect))
            for kind, row in zip(sample.kinds, rows, strict=True)
        )
        return Example(number, sample.id, encoded, pixels, cut)

    def _shorten(self, sample: Sample, encoded: Encoded) -> Encoded:
        placeholders = {v.token_id for v in self.chat.visual.values()}
        most = self._settings.max_tokens
        if any(i in placeholders for i in encoded.ids[most:]):
            raise RequestError(
                f"sample {sample.id}: its media do not fit into max_tokens={most}",
                "raise max_tokens",
            )
        return Encoded(encoded.ids[:most], encoded.labels[:most])
