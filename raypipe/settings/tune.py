"""Settings of the tune verb: a stage, what is tried of its settings, and how long each trial is given."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, Tag

from raypipe.errors import RequestError, nearest
from raypipe.settings.base import Settings, build, how, load
from raypipe.settings.faults import Unfit, names_of
from raypipe.settings.stage import StageSettings

WAYS = ("choice", "grid", "uniform", "loguniform", "randint")
# Where a trial lies, on what it runs, what it is compared by: the last two decide which samples are held out.
KEPT = ("name", "out", "workers", "export", "validation", "mixture", "seed")


class Axis(Settings):
    """One setting that is searched, and what is tried of it: exactly one of the ways."""

    choice: list[Any] | None = Field(None, min_length=1)  # drawn from these
    grid: list[Any] | None = Field(None, min_length=1)  # each of these, with each of the other grids
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    randint: tuple[int, int] | None = None  # both ends may be drawn

    @pydantic.model_validator(mode="after")
    def _one(self) -> Axis:
        if sum(getattr(self, way) is not None for way in WAYS) != 1:
            raise Unfit(f"name exactly one of {', '.join(WAYS)}", "space.NAME={choice: [1, 2]}, for example")
        for way in ("uniform", "loguniform", "randint"):
            ends = getattr(self, way)
            if ends is not None and not (all(map(math.isfinite, ends)) and ends[0] < ends[1]):
                raise Unfit(f"{way} goes from a smaller number to a larger one", f"{way}: [1.0e-5, 1.0e-3]")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise Unfit("loguniform goes over positive numbers", "loguniform: [1.0e-5, 1.0e-3]")
        return self

    @property
    def way(self) -> str:
        return next(way for way in WAYS if getattr(self, way) is not None)

    def draw(self, random: Any) -> Any:
        """One value, by a numpy generator; a grid is not drawn."""
        if self.choice is not None:
            return self.choice[int(random.integers(len(self.choice)))]
        if self.uniform is not None:
            return float(random.uniform(*self.uniform))
        if self.loguniform is not None:
            low, high = (math.log(end) for end in self.loguniform)
            return float(f"{math.exp(random.uniform(low, high)):.6g}")
        assert self.randint is not None  # noqa: S101 - the others are above
        return int(random.integers(self.randint[0], self.randint[1] + 1))

    def examples(self) -> list[Any]:
        """Values that stand for all it can give: each that is listed, or both ends and one between."""
        listed = self.choice or self.grid
        if listed is not None:
            return listed
        ends: Any = self.uniform or self.loguniform or self.randint
        return [*ends] if self.randint else [*ends, ends[0] + (ends[1] - ends[0]) * 0.618034]


def _tag(value: Any) -> str:
    return "file" if isinstance(value, str) else "inline"


class TuneSettings(Settings):
    """A search over the settings of one stage."""

    name: str
    out: str = how()
    stage: Annotated[
        Annotated[str, Tag("file")] | Annotated[StageSettings, Tag("inline")], Discriminator(_tag)
    ]
    set: dict[str, Any] = Field(default_factory=dict)  # settings of the stage that hold for all trials
    space: dict[str, Axis] = Field(min_length=1)
    trials: int | None = Field(None, ge=1)  # None: the whole grid
    metric: str = "loss"  # of the samples held out, or BENCHMARK.METRIC of validation
    mode: Literal["min", "max"] = "min"
    scheduler: Literal["asha", "none"] = "asha"
    grace: int | None = Field(None, ge=1)  # steps that every trial gets; None: to its first validation
    reduction: int = Field(3, ge=2)  # of the trials at a rung one in so many goes on
    wait: bool = how(True)  # a trial trains on only when its checkpoint is scored
    max_concurrent: int | None = how(None, ge=1)  # None: as many as the cluster has room for
    seed: int = 0

    @pydantic.field_validator("set", mode="before")
    @classmethod
    def _flat_set(cls, value: Any) -> Any:
        """``set.workers.num=4`` on the command line and a nested group mean the dotted name."""
        return _flat(value, lambda inner: False)

    @pydantic.field_validator("space", mode="before")
    @classmethod
    def _flat_space(cls, value: Any) -> Any:
        return _flat(value, lambda inner: not all(isinstance(v, dict) for v in inner.values()))


def stage_of(settings: TuneSettings, where: str = "tune") -> StageSettings:
    """The stage that is searched, with what holds for all trials.

    Raises:
        RequestError: no such file, or an unknown setting.
    """
    stage = settings.stage
    if isinstance(stage, str):
        stage = load(StageSettings, stage)
    return with_values(stage, settings.set, f"{where}: set")


def with_values(stage: StageSettings, values: dict[str, Any], where: str) -> StageSettings:
    """A stage with other values at dotted names.

    Raises:
        RequestError: an unknown name, with the nearest valid one, or a value of the wrong type.
    """
    data = stage.model_dump(mode="json")
    for name, value in values.items():
        known = names_of(StageSettings)
        group = name.partition(".")[0]
        if name not in known and group != "rates":
            raise RequestError(f"{where}: the stage has no setting '{name}'", nearest(name, known))
        inner = data
        *groups, last = name.split(".")
        for key in groups:
            if inner.get(key) is None:
                inner[key] = {}
            inner = inner[key]
        inner[last] = value
    return build(StageSettings, data, where)


def check_space(settings: TuneSettings, stage: StageSettings) -> None:
    """Tries every kind of value that the search can give.

    Raises:
        RequestError: a name that no stage has, one that a search sets itself, or a wrong value.
    """
    for name, axis in settings.space.items():
        if name.partition(".")[0] in KEPT:
            raise RequestError(
                f"tune: '{name}' cannot be searched: trials must be scored alike",
                "put it under set: where it is the same for all trials",
            )
        for value in axis.examples():
            with_values(stage, {name: value}, f"tune: space: {name}={value}")


def _flat(value: Any, whole: Any, prefix: str = "") -> Any:
    """Nested groups -> dotted names; ``whole`` says which group is a value."""
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict) and inner and not whole(inner):
            out |= _flat(inner, whole, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = inner
    return out
