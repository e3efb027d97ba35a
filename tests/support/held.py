"""A seed whose split holds out enough: names of media depend on where a test's files lie."""

from __future__ import annotations

from pathlib import Path

from raypipe.errors import RequestError
from raypipe.settings import StageSettings
from raypipe.train.mixture import Mixture
from raypipe.train.split import split


def seed_that_holds(run: Path, fraction: float, least: int = 2, most: int = 5) -> int:
    """The first seed that holds out so many samples of a prepare run, of more than one kind."""
    mixture = Mixture([str(run)])
    values = {"name": "any", "out": "any", "start": {"random": "tiny"}, "mixture": [{"data": str(run)}]}
    for seed in range(1000):
        asked = StageSettings.model_validate({**values, "seed": seed, "validation": {"fraction": fraction}})
        try:
            held = split(mixture, asked).held
        except RequestError:  # it holds out everything
            continue
        kinds = {mixture.sample(int(number)).kinds for number in held}
        if least <= len(held) <= most and len(kinds) > 1:
            return seed
    raise AssertionError(f"no seed holds out {least} to {most} samples of {run}")
