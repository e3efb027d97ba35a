"""Which samples are held out of training."""

from __future__ import annotations

from dataclasses import dataclass

from raypipe.records import fingerprint
from raypipe.settings import StageSettings
from raypipe.train.mixture import Mixture


@dataclass(frozen=True)
class Split:
    """Numbers of the samples that are learned from and of those held out."""

    train: tuple[int, ...]
    held: tuple[int, ...]


def split(mixture: Mixture, settings: StageSettings) -> Split:
    """Holds out a fraction of the media with all samples that show them."""
    fraction = settings.validation.fraction
    held = []
    for number in range(len(mixture)):
        sample = mixture.sample(number)
        name = min(sample.media) if sample.media else sample.id
        if int(fingerprint("held", settings.seed, name)[:8], 16) / 2**32 < fraction:
            held.append(number)
    chosen = set(held)
    return Split(tuple(n for n in range(len(mixture)) if n not in chosen), tuple(held))
