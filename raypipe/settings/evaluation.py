"""Settings of the evaluate verb."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
from pydantic import Field

from raypipe.settings.base import Settings, how, later
from raypipe.settings.data import DecodeLimits, Rendition, Sampling
from raypipe.settings.faults import Unfit
from raypipe.settings.judge import JudgeSettings
from raypipe.settings.served import ServedSettings


class EvaluateSettings(Settings):
    """One batch evaluation of one model over many benchmarks.

    ``actors`` are copies of the model, each with ``actor_cpus`` and ``actor_gpus`` (a share of one is fine):
    a number, or "1-8" for as many of them as there is work for. ``read_ahead_mib`` bounds what is read and
    waits for a model, over the whole cluster.
    """

    model: str
    model_base: str | None = None
    engine: Literal["local", "served"] = later("local")
    served: ServedSettings | None = later(None)
    benchmarks: list[str] | Literal["all"] = "all"
    splits: dict[str, str] = Field(default_factory=dict)  # of several question sets: {"mmbench": "cn"}
    eval_root: str
    prepared: list[str] = how([])  # prepare runs; a medium that one of them holds is not decoded again
    out: str = how()
    protocol: Literal["corrected", "reference"] = "corrected"
    control: Literal["none", "repeat_frame"] = "none"
    sampling: Sampling | None = None  # None: as the model was trained
    rendition: Rendition | None = None
    max_new_tokens: int | None = Field(None, ge=1)  # None: as the benchmark says
    limit: int | None = Field(None, ge=1)  # the first N questions of each benchmark
    precision: Literal["bf16", "fp32"] = "bf16"
    media_per_unit: int = Field(16, ge=1)
    questions_per_unit: int = later(512, ge=1)  # a medium with more of them is asked about in several units
    batch: int = how(16, ge=1)
    certificate: int = how(16, ge=0)  # answers that are made once more, one at a time, and compared
    actors: int | str = how(1)
    actor_cpus: float = how(1, ge=0)
    actor_gpus: float = how(0, ge=0)
    read_ahead_mib: int = how(2048, ge=1)
    retry_bad: bool = how(False)  # show media again that could not be shown before
    judge: JudgeSettings | None = how(None)
    coverage_floor: float = how(0.99, ge=0, le=1)
    limits: DecodeLimits = how(DecodeLimits())

    @pydantic.field_validator("benchmarks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """``a,b`` on the command line is a list."""
        return [b.strip() for b in value.split(",")] if isinstance(value, str) and value != "all" else value

    @pydantic.field_validator("actors")
    @classmethod
    def _range(cls, value: int | str) -> int | str:
        low, high = _bounds(value)
        if not 1 <= low <= high:
            raise Unfit('a number of at least 1, or a range such as "1-8"', "actors=8, or actors=1-8")
        return value

    @pydantic.model_validator(mode="after")
    def _served(self) -> EvaluateSettings:
        if (self.engine == "served") != (self.served is not None):
            raise Unfit(
                "engine=served goes with a group served: that has a base_url, and with no other",
                "engine=served served.base_url=http://127.0.0.1:8000/v1",
            )
        if self.served is not None and (self.protocol == "reference" or self.model_base):
            raise Unfit(
                "a served model has its own template: no protocol=reference, and no model_base",
                "leave them out, or give the weights: engine=local model=FOLDER",
            )
        return self

    @property
    def actor_range(self) -> tuple[int, int]:
        """The least and the most actors."""
        return _bounds(self.actors)


def _bounds(actors: int | str) -> tuple[int, int]:
    low, dash, high = str(actors).partition("-")
    if not low.strip().isdecimal() or (dash and not high.strip().isdecimal()):
        return 0, 0
    return int(low), int(high or low)
