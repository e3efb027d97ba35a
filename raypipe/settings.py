"""Settings: yaml + ``key=value`` overrides -> frozen, closed objects.

An unknown key is refused with the nearest valid one. Fields marked ``identity=False`` say how a run
is carried out (workers, budgets) rather than what it makes; they may change between a start and its
continuation. A relative path is looked up from the working directory; ``~`` is the home folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from raypipe.errors import RequestError, nearest
from raypipe.records import fingerprint


def how(default: Any = ..., **kwargs: Any) -> Any:
    """A field that says how a run is carried out; not part of the run's identity."""
    return Field(default, json_schema_extra={"identity": False}, **kwargs)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Sampling(Settings):
    """Which instants of a video are kept.

    ``uniform``: int-truncated linspace over all frames, the reference's rule. ``midpoint``: the middle of
    ``frames`` equal bins. ``fps``: so many a second, at least ``min_frames`` and at most ``max_frames``.
    ``keyframes``: the frames that stand by themselves, at most ``max_frames`` of them.
    """

    policy: Literal["uniform", "midpoint", "fps", "keyframes"] = "uniform"
    frames: int = Field(8, ge=1, le=512)  # of uniform and midpoint
    fps: float = Field(1.0, gt=0, le=1000)
    min_frames: int = Field(4, ge=1, le=4096)
    max_frames: int = Field(64, ge=1, le=4096)

    @pydantic.model_validator(mode="after")
    def _bounds(self) -> Sampling:
        if self.min_frames > self.max_frames:
            raise ValueError("min_frames is larger than max_frames")
        return self


class Rendition(Settings):
    """How a kept frame is stored: scaled so that its shorter side has ``short_side`` pixels."""

    short_side: int = Field(224, ge=8, le=4096)
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    codec: Literal["jpeg", "lossless"] = "jpeg"
    quality: int = Field(95, ge=1, le=100)
    chroma: Literal["4:4:4", "4:2:0"] = "4:4:4"


class DecodeLimits(Settings):
    """Limits of the decoding child process, per medium.

    ``stall_s``: without a sign of life, while ``timeout_s`` is for all of it.
    """

    timeout_s: float = Field(60.0, gt=0)
    stall_s: float = Field(8.0, gt=0)
    memory_mib: int = Field(4096, ge=512)
    tries: int = Field(2, ge=1, le=5)
    max_pixels: int = 100_000_000


class DrawnData(Settings):
    """Data that raypipe draws itself (the demo's moving shapes) when the data root is not there yet."""

    seed: int = 7
    scale: float = Field(1.0, gt=0, le=10)


class DatasetSettings(Settings):
    """One training source: annotation files, media root, sampling, error budget.

    ``data_root`` is a folder or an address such as ``s3://bucket/prefix``; annotations and media paths are
    below it, and ``*`` and ``?`` in ``annotations`` stand for several files.
    """

    name: str
    source: str = how("")
    licence: str = how("")
    fetch: str = how("")  # in words: where the files are to be had
    data_root: str
    annotations: list[str] = Field(min_length=1)
    reader: Literal["auto", "llava_json", "jsonl", "parquet", "video_chatgpt"] = (
        "auto"  # auto: by file suffix
    )
    media_path: str = "{video_id}.mp4"  # of the video_chatgpt reader: where a video lies below data_root
    decoder: Literal["pyav", "decord"] = "pyav"
    sampling: Sampling = Sampling()
    rendition: Rendition = Rendition()
    media_per_shard: int = Field(64, ge=1)  # videos; an image counts as a sixteenth of one
    out: str = how()
    drawn: DrawnData | None = None
    reuse: list[str] = how([])  # finished runs whose media need no decoding again
    remove: str | None = how(None)  # a file with a medium's path a line: left out, and its bytes dropped
    retry_quarantined: bool = how(False)  # decode media again that were quarantined before
    error_budget: float = how(0.01, ge=0, le=1)
    limits: DecodeLimits = how(DecodeLimits())
    concurrency: int | None = how(None, ge=1)


class Start(Settings):
    """Where a stage's weights come from: a folder, or random at a named size."""

    model: str | None = None  # a raypipe run or a Hugging Face folder
    random: Literal["tiny", "7b"] | None = None
    seed: int = 0

    @pydantic.model_validator(mode="after")
    def _one(self) -> Start:
        if (self.model is None) == (self.random is None):
            raise ValueError("name exactly one of start.model and start.random")
        return self


class Part(Settings):
    """One source of a mixture: a prepare run, or a dataset yaml that is prepared first."""

    data: str


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
    """DeepSpeed: ZeRO stage and where the optimizer lives."""

    zero: Literal[0, 1, 2] = 2
    offload_optimizer: bool = False


class Workers(Settings):
    num: int = Field(1, ge=1)
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    max_failures: int = Field(3, ge=0)


class Checkpoints(Settings):
    every_steps: int = Field(500, ge=1)
    keep: int = Field(2, ge=1)


class StageSettings(Settings):
    """One training stage: where it starts, what learns at which rate, on what, for how long."""

    name: str
    out: str = how()
    start: Start
    mixture: list[Part] = Field(min_length=1)
    rates: dict[str, float] = {}  # part of the model -> learning rate; a part not named is frozen
    lora: Lora | None = None
    epochs: float | None = Field(1.0, gt=0)
    steps: int | None = Field(None, ge=1)
    global_batch: int = Field(128, ge=1)
    micro_batch: int = Field(16, ge=1)
    max_tokens: int = Field(3072, ge=16)  # of which a video takes 2056
    template: Literal["v1", "llava_v1"] = "v1"
    image_aspect: Literal["pad", "square"] = "pad"
    group_by_length: bool = False
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    deepspeed: Sharding = Sharding()
    seed: int = 42
    workers: Workers = how(Workers())
    checkpoint: Checkpoints = how(Checkpoints())


class Price(Settings):
    """Cost of the judge, in US dollars per million tokens."""

    prompt: float = 0.0
    reply: float = 0.0


class JudgeSettings(Settings):
    """An OpenAI-compatible endpoint that judges open answers. The key is named by path, never given."""

    name: str = "judge"
    base_url: str | None = None
    model: str = "gpt-3.5-turbo"
    key_file: str | None = how(None)
    key_env: str = how("OPENAI_API_KEY")
    temperature: float = 0.0
    concurrency: int = how(8, ge=1)
    timeout_s: float = how(60.0, gt=0)
    tries: int = how(5, ge=1)
    price: Price = how(Price())


class EvaluateSettings(Settings):
    """One batch evaluation of one model over many benchmarks."""

    model: str
    model_base: str | None = None
    benchmarks: list[str] | Literal["all"] = "all"
    eval_root: str
    out: str = how()
    protocol: Literal["corrected", "reference"] = "corrected"
    control: Literal["none", "repeat_frame"] = "none"
    sampling: Sampling | None = None  # None: as the model was trained
    rendition: Rendition | None = None
    max_new_tokens: int | None = Field(None, ge=1)  # None: as the benchmark says
    limit: int | None = Field(None, ge=1)  # the first N questions of each benchmark
    precision: Literal["bf16", "fp32"] = "bf16"
    media_per_unit: int = Field(16, ge=1)
    batch: int = how(16, ge=1)
    actors: int = how(1, ge=1)
    actor_cpus: float = how(1, ge=0)
    actor_gpus: float = how(0, ge=0)
    judge: JudgeSettings | None = how(None)
    coverage_floor: float = how(0.99, ge=0, le=1)
    limits: DecodeLimits = how(DecodeLimits())

    @pydantic.field_validator("benchmarks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """``a,b`` on the command line is a list."""
        return [b.strip() for b in value.split(",")] if isinstance(value, str) and value != "all" else value


S = TypeVar("S", bound=Settings)


def load(kind: type[S], path: str | Path | None, overrides: list[str] | None = None) -> S:
    """Reads a yaml file, applies ``a.b=value`` overrides and builds the settings.

    Raises:
        RequestError: missing file, bad yaml, unknown key (with the nearest valid one), bad value.
    """
    data: Any = {}
    if path is not None:
        data = read_yaml(Path(path).expanduser())
    for item in overrides or []:
        name, sep, text = item.partition("=")
        if not sep:
            raise RequestError(f"'{item}' is not a setting", "write key=value, for example global_batch=64")
        _set(data, name.split("."), _value(text, item), item)
    return build(kind, data, str(path or "command line"))


def build(kind: type[S], data: dict[str, Any], where: str) -> S:
    """Builds settings from plain data; every fault is a RequestError that names the key."""
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as fault:
        raise RequestError(*_explain(kind, fault, where)) from None


def identity(settings: Settings) -> str:
    """The fingerprint of what a run makes: all fields but those that only say how."""
    return fingerprint(_identity_of(settings))


def how_fields(kind: type[Settings]) -> set[str]:
    """The names of a kind's fields that are not part of a run's identity."""
    extras = {name: info.json_schema_extra for name, info in kind.model_fields.items()}
    return {n for n, extra in extras.items() if isinstance(extra, dict) and extra.get("identity") is False}


def local(path: str) -> str:
    """Expands ``~``; a path with a protocol (``s3://``) is left alone, others are made absolute."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def _identity_of(settings: Settings) -> dict[str, Any]:
    out: dict[str, Any] = {}
    left_out = how_fields(type(settings))
    for name in type(settings).model_fields:
        if name in left_out:
            continue
        value = getattr(settings, name)
        if isinstance(value, Settings):
            value = _identity_of(value)
        elif isinstance(value, list):
            value = [_identity_of(v) if isinstance(v, Settings) else v for v in value]
        out[name] = value
    return out


class _Loader(yaml.SafeLoader):
    """Plain data only; a key that is there twice and an alias (a few make a giant) are refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not taken", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key.value}' is there twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The plain data of a settings file.

    Raises:
        RequestError: missing, unreadable, or not a yaml mapping.
    """
    try:
        data = yaml.load(path.read_text(), _Loader)  # noqa: S506 - a safe loader
    except FileNotFoundError:
        raise RequestError(f"no such settings file: {path}", _near_files(path)) from None
    except (OSError, UnicodeDecodeError) as fault:
        raise RequestError(f"cannot read {path}: {fault}") from None
    except (yaml.YAMLError, RecursionError) as fault:
        raise RequestError(f"{path} is not valid yaml: {' '.join(str(fault).split())[:200]}") from None
    if not isinstance(data, dict):
        raise RequestError(f"{path} does not hold settings", "write one 'key: value' a line")
    return data


def _value(text: str, item: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, RecursionError) as fault:
        raise RequestError(f"'{item}' is not valid yaml: {' '.join(str(fault).split())[:200]}") from None


def _near_files(path: Path) -> str:
    siblings = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    return nearest(path.name, siblings) if siblings else "give the path of a yaml file"


def _set(data: dict[str, Any], keys: list[str], value: Any, item: str) -> None:
    for key in keys[:-1]:
        if data.get(key) is None:  # not there, or written as null
            data[key] = {}
        data = data[key]
        if not isinstance(data, dict):
            raise RequestError(f"'{item}': {key} is not a group of settings")
    data[keys[-1]] = value


def _explain(kind: type[Settings], fault: pydantic.ValidationError, where: str) -> tuple[str, str]:
    faults = fault.errors()
    first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    place = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        valid = _fields_at(kind, first["loc"][:-1])
        return f"{where}: unknown setting '{place}'", nearest(str(first["loc"][-1]), valid)
    if first["type"] == "missing":
        return f"{where}: setting '{place}' is missing", f"add {place}=... or a line '{place}: ...'"
    got = "" if isinstance(first.get("input"), dict) else f" (got {first.get('input')!r})"
    return f"{where}: setting '{place or kind.__name__}': {first['msg']}{got}", ""


def _fields_at(kind: Any, loc: tuple[Any, ...]) -> list[str]:
    for step in loc:
        if not isinstance(step, str) or step not in getattr(kind, "model_fields", {}):
            continue
        kind = kind.model_fields[step].annotation
        for choice in getattr(kind, "__args__", ()):
            if isinstance(choice, type) and issubclass(choice, Settings):
                kind = choice
    return list(getattr(kind, "model_fields", {}))
