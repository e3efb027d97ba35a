"""Settings of the train verb: one stage is nothing but these."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from raypipe.settings.base import S, Settings, how, local
from raypipe.settings.faults import Unfit


class StartParts(Settings):
    """A model put together: each part is a folder or a file of weights in its original layout."""

    language_model: str  # a Llama-type model in the Hugging Face layout
    image_tower: str  # LanguageBind's or CLIP's layout
    video_tower: str  # LanguageBind's layout with temporal attention, or CLIP's
    projector: str | None = None  # mm_projector.bin or a finished stage 1; None: fresh


class Start(Settings):
    """Where a stage's weights come from: a folder, parts, or random at a named size.

    ``family`` is of random models; a folder says itself what it is. ``projector`` replaces the projector of
    the model that is started from (the reference's ``pretrain_mm_mlp_adapter``).
    """

    model: str | None = None  # a raypipe run, a Hugging Face folder, or the original Video-LLaVA layout
    model_base: str | None = None  # below an adapter or a projector alone
    parts: StartParts | None = None
    random: Literal["tiny", "7b"] | None = None
    family: str = "video_llava"
    projector: str | None = None
    seed: int = 0  # of random weights and of a fresh projector

    @pydantic.model_validator(mode="after")
    def _one(self) -> Start:
        if sum(way is not None for way in (self.model, self.parts, self.random)) != 1:
            raise Unfit(
                "name exactly one of start.model, start.parts and start.random",
                "one of them is in the yaml; take it away with start.model=null",
            )
        return self


class Part(Settings):
    """One source of a mixture: a prepare run, or a dataset yaml that is prepared first.

    ``weight`` is how often an epoch sees each of its samples: 2 is twice, 0.5 every second epoch.
    """

    data: str
    weight: float = Field(1.0, gt=0, le=1000)


class Lora(Settings):
    r: int = Field(128, ge=1)
    alpha: int = 256
    dropout: float = Field(0.05, ge=0, lt=1)
    rate: float = Field(2e-4, gt=0)
    targets: str = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class Schedule(Settings):
    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, le=1)


class Optimizer(Settings):
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, ge=0)


class Sharding(Settings):
    """DeepSpeed: ZeRO stage and what lives in CPU memory."""

    zero: Literal[1, 2, 3] = 2
    offload_optimizer: bool = False
    offload_parameters: bool = False  # ZeRO-3 only

    @pydantic.model_validator(mode="after")
    def _stage(self) -> Sharding:
        if self.offload_parameters and self.zero != 3:
            raise Unfit("offload_parameters needs zero: 3", "deepspeed.zero=3")
        return self


class Workers(Settings):
    """Ray Train workers. With ``min_num`` a stage starts with what is there, then with more or fewer."""

    num: int = Field(1, ge=1, le=100_000)
    min_num: int | None = Field(None, ge=1)
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    max_failures: int = Field(3, ge=0)
    stall_s: float = Field(45.0, gt=0)  # without progress: reported, and the job starts again
    start_s: float = Field(600.0, gt=0)  # the same for building the model and the first step

    @pydantic.model_validator(mode="after")
    def _range(self) -> Workers:
        if self.min_num is not None and self.min_num > self.num:
            raise Unfit("min_num is larger than num", "raise workers.num, or lower workers.min_num")
        return self


class Checkpoints(Settings):
    every_steps: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)
    asynchronous: bool = True


class Cache(Settings):
    """What a node keeps of media that lie on object storage."""

    folder: str = "~/.cache/raypipe/media"
    gib: float = Field(50.0, gt=0)


class Validation(Settings):
    """A split held out by medium, and benchmarks, run as tasks of their own beside training."""

    fraction: float = Field(0.0, ge=0, le=0.5)  # of the media; 0 holds nothing out
    every_steps: int | None = Field(None, ge=1)  # None: at every checkpoint; else a multiple of its steps
    samples: int = Field(2048, ge=1)  # at most so many are scored
    benchmarks: list[str] = Field(default_factory=list)
    eval_root: str | None = None
    questions: int | None = Field(None, ge=1)  # the first N of each benchmark
    cpus: float = how(1, ge=0)
    gpus: float = how(0, ge=0)
    metric: str = "loss"  # what "best" goes by: loss, or BENCHMARK.METRIC
    mode: Literal["min", "max"] = "min"
    wait: bool = how(False)  # training goes on only when its checkpoint is scored (a search does so)

    @pydantic.model_validator(mode="after")
    def _root(self) -> Validation:
        if self.benchmarks and self.eval_root is None:
            raise Unfit("validation.benchmarks need validation.eval_root", "validation.eval_root=DIR")
        return self


class StageSettings(Settings):
    """One training stage: where it starts, what learns at which rate, on what, for how long."""

    name: str
    out: str = how()
    start: Start
    mixture: list[Part] = Field(min_length=1)
    rates: dict[str, float] = Field(
        default_factory=dict
    )  # part of the model -> learning rate; a part not named is frozen
    lora: Lora | None = None
    epochs: float | None = Field(1.0, gt=0, le=100_000)
    steps: int | None = Field(None, ge=1, le=1_000_000_000)
    global_batch: int = Field(128, ge=1)
    micro_batch: int = how(16, ge=1)
    max_tokens: int = Field(3072, ge=16)  # of which a video takes 2056
    over_length: Literal["cut", "drop"] = "cut"  # the text is cut on the right, or the sample left out
    template: Literal["auto", "v1", "llava_v1", "plain", "chatml"] = "auto"  # auto: the family's own
    protocol: Literal["corrected", "reference"] = "corrected"
    image_aspect: Literal["pad", "square"] = "pad"
    pixels: Literal["antialias", "reference"] = "antialias"
    flip: float = Field(0.0, ge=0, le=1)  # chance that a whole clip is mirrored; the reference has 0.5
    group_by_length: bool = False
    packing: bool = False
    shuffle_window: int = Field(8192, ge=1)  # samples that are shuffled together
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    deepspeed: Sharding = Sharding()
    seed: int = 42
    validation: Validation = Validation()
    export: Literal["last", "best"] = "last"
    workers: Workers = how(Workers())
    checkpoint: Checkpoints = how(Checkpoints())
    cache: Cache = how(Cache())


def located(settings: StageSettings) -> StageSettings:
    """The settings with all paths absolute: in workers, tasks and trials the working directory is another."""
    start = _with_paths(settings.start, "model", "model_base", "projector")
    if start.parts is not None:
        start = start.model_copy(update={"parts": _with_paths(start.parts, *type(start.parts).model_fields)})
    more = {
        "start": start,
        "mixture": [_with_paths(part, "data") for part in settings.mixture],
        "cache": _with_paths(settings.cache, "folder"),
        "validation": _with_paths(settings.validation, "eval_root"),
    }
    return _with_paths(settings, "out").model_copy(update=more)


def read_by(settings: StageSettings) -> list[str]:
    """The files and folders that the workers of a stage read."""
    start, validation = settings.start, settings.validation
    parts = start.parts.model_dump().values() if start.parts else ()
    named = [start.model, start.model_base, start.projector, *parts, validation.eval_root]
    return [*(path for path in named if path), *(part.data for part in settings.mixture)]


def _with_paths(group: S, *names: str) -> S:
    paths = {name: local(value) for name in names if (value := getattr(group, name)) is not None}
    return group.model_copy(update=paths)
