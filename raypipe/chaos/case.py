"""A user's configuration as a case: the same settings on a part of the data, in a scratch folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raypipe.chaos.driver import NO_KEY
from raypipe.chaos.schedule import DECODER, DRIVER, JUDGE, WORKER
from raypipe.demo.matching_judge import MODEL
from raypipe.errors import RequestError
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    Settings,
    StageSettings,
    Validation,
    expanded,
    load,
    local,
    located,
    read_yaml,
)

SAMPLES = {"prepare": 96, "train": 12, "evaluate": 16}  # records; steps; questions of each benchmark
CHECKPOINTS = 4  # of a short stage
AT_ONCE = 2  # units in work: with more of them a short run is over before a fault can fall
JUDGE_TIMEOUT_S, JUDGE_TRIES = 5.0, 5


@dataclass(frozen=True)
class Case:
    """What is run twice.

    Attributes:
        verb: prepare, train or evaluate.
        settings: those of the scratch run.
        faults: those that can befall it.
        notes: what of the user's settings is another here, in words.
        before: datasets that are prepared first, undisturbed.
        every: units that become visible together: steps between two checkpoints.
        exact: whether raypipe promises the same bytes.
    """

    verb: str
    settings: DatasetSettings | StageSettings | EvaluateSettings
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    before: tuple[DatasetSettings, ...] = ()
    every: int = 1
    exact: bool = True
    more: dict[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return Path(self.settings.out)


def case_of(
    config: str | None, overrides: list[str], scratch: Path, sample: int | None, judge_url: Callable[[], str]
) -> Case:
    """Reads a dataset's, a stage's or an evaluation's settings.

    Args:
        sample: how many records, steps or questions of each benchmark; None: a few.
        judge_url: starts the judge that stands in; called when there is one to stand in for.

    Raises:
        RequestError: settings of another kind, or an evaluation whose answers come from elsewhere.
    """
    keys = set(read_yaml(expanded(config))) if config else set()
    keys |= {item.partition("=")[0].partition(".")[0] for item in overrides}
    if "annotations" in keys:
        return _dataset(load(DatasetSettings, config, overrides), scratch, sample or SAMPLES["prepare"])
    if "mixture" in keys:
        return _stage(load(StageSettings, config, overrides), scratch, sample or SAMPLES["train"])
    if "eval_root" in keys or "benchmarks" in keys:
        settings = load(EvaluateSettings, config, overrides)
        return _evaluation(settings, scratch, sample or SAMPLES["evaluate"], judge_url)
    if config is None:
        raise RequestError("which settings? no yaml file is named", "raypipe chaos CONFIG.yaml --seed 1")
    raise RequestError(
        f"chaos takes the settings of a dataset, a stage or an evaluation, {config} is of another kind",
        "a search is a stage many times: name the stage's yaml",
    )


def write(settings: Settings, file: Path) -> str:
    """Settings as a file of their own; JSON is YAML."""
    file.write_text(
        json.dumps(settings.model_dump(mode="json", exclude_unset=False), indent=1), encoding="utf-8"
    )
    return str(file)


def _dataset(settings: DatasetSettings, scratch: Path, sample: int) -> Case:
    small = _small(settings, scratch / "run", sample)
    notes = (
        f"the first {small.limit} records, in units of one video or 16 images, {AT_ONCE} at a time",
        "out= is in the scratch folder; no run is reused",
    )
    return Case("prepare", small, (WORKER, DECODER, DRIVER), notes)


def _small(settings: DatasetSettings, out: Path, sample: int) -> DatasetSettings:
    limit = min(sample, settings.limit or sample)
    return settings.model_copy(
        update={
            "data_root": local(settings.data_root),
            "remove": local(settings.remove) if settings.remove else None,
            "reuse": [],
            "out": str(out),
            "limit": limit,
            "media_per_shard": 1,
            "concurrency": min(AT_ONCE, settings.concurrency or AT_ONCE),
        }
    )


def _stage(settings: StageSettings, scratch: Path, steps: int) -> Case:
    steps = min(steps, settings.steps or steps)
    every = max(1, steps // CHECKPOINTS)
    before, parts = [], []
    for number, part in enumerate(settings.mixture):
        if part.data.endswith((".yaml", ".yml")):
            small = _small(load(DatasetSettings, part.data), scratch / f"data-{number}", SAMPLES["prepare"])
            before.append(small)
            part = part.model_copy(update={"data": small.out})
        parts.append(part)
    workers = settings.workers.model_copy(
        update={"min_num": None, "max_failures": max(1, settings.workers.max_failures)}
    )
    checkpoint = settings.checkpoint.model_copy(update={"every_steps": every, "keep": CHECKPOINTS + 1})
    changed = {
        "out": str(scratch / "run"),
        "mixture": parts,
        "steps": steps,
        "epochs": None,
        "workers": workers,
        "checkpoint": checkpoint,
        "validation": Validation(),
        "export": "last",
    }
    notes = [f"{steps} steps, a checkpoint every {every}", "out= is in the scratch folder"]
    if settings.validation != Validation():
        notes.append("no validation beside it")
    if settings.workers.min_num is not None:
        notes.append(f"always {workers.num} workers: with fewer the same numbers are not promised")
    notes += [f"{b.name}: the first {b.limit} records are prepared first" for b in before]
    exact = not workers.gpus
    if not exact:
        notes.append("on GPUs losses are compared to 1 %: their kernels do not promise the same bits")
    small_stage = located(settings.model_copy(update=changed))
    return Case("train", small_stage, (WORKER, DRIVER), tuple(notes), tuple(before), every, exact)


def _evaluation(settings: EvaluateSettings, scratch: Path, sample: int, judge_url: Callable[[], str]) -> Case:
    if settings.engine == "served":
        raise RequestError(
            "what answers is at served.base_url: chaos can neither pay for it nor know what it would say",
            "name a model that is loaded here: engine=local model=DIR",
        )
    from raypipe.settings import JudgeSettings

    limit = min(sample, settings.limit or sample)
    faults = [WORKER, DECODER, DRIVER]
    notes = [
        f"the first {limit} questions of each benchmark, one a unit, one copy of the model",
        "out= is in the scratch folder",
    ]
    judge: JudgeSettings | None = None
    if settings.judge is not None:
        stands_in = {
            "base_url": judge_url(),
            "model": MODEL,
            "key_file": None,
            "key_env": NO_KEY,
            "cache": None,
            "max_usd": None,
            "timeout_s": min(JUDGE_TIMEOUT_S, settings.judge.timeout_s),
            "tries": max(JUDGE_TRIES, settings.judge.tries),
            "requests_per_minute": None,
            "tokens_per_minute": None,
        }
        judge = settings.judge.model_copy(update=stands_in)
        faults.append(JUDGE)
        real = settings.judge.base_url or "OpenAI"
        notes.append(
            f"the judge is one on this machine that compares words, in place of {settings.judge.model} "
            f"at {real}: nothing is paid, and its key is not read"
        )
    small = settings.model_copy(
        update={
            "out": str(scratch / "run"),
            "limit": limit,
            "media_per_unit": 1,
            "questions_per_unit": 1,
            "actors": 1,
            "judge": judge,
            "eval_root": local(settings.eval_root),
            "model": local(settings.model),
            "model_base": local(settings.model_base) if settings.model_base else None,
            "prepared": [local(path) for path in settings.prepared],
        }
    )
    return Case("evaluate", small, tuple(faults), tuple(notes), exact=not settings.actor_gpus)
