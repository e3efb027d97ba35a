"""Every yaml that is shipped builds its settings, and the yamls agree with each other and with the code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raypipe import benchmark as benchmarks
from raypipe.prepare.read import Annotations
from raypipe.settings import (
    DatasetSettings,
    EvaluateSettings,
    Settings,
    StageSettings,
    TuneSettings,
    identity,
    load,
)

REPO = Path(__file__).parents[2]
JOBS = sorted((REPO / "jobs").glob("*.yaml"))
DATASETS = sorted(p for p in (REPO / "datasets").glob("*.yaml") if p.name != "benchmarks.yaml")
KINDS: dict[str, type[Settings]] = {
    "prepare.yaml": DatasetSettings,
    "evaluate.yaml": EvaluateSettings,
    "tune.yaml": TuneSettings,
    "demo_tune.yaml": TuneSettings,
}
REAL_STAGES = ("pretrain", "finetune", "finetune_lora")


def settings_of(path: Path) -> Settings:
    kind = DatasetSettings if path.parent.name == "datasets" else KINDS.get(path.name, StageSettings)
    return load(kind, path)


def stage(name: str) -> StageSettings:
    return load(StageSettings, REPO / "jobs" / f"{name}.yaml")


@pytest.mark.parametrize("path", [*JOBS, *DATASETS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_yaml_builds_its_settings(path: Path) -> None:
    assert settings_of(path)


@pytest.mark.parametrize("path", DATASETS, ids=lambda p: p.name)
def test_a_dataset_says_where_it_is_from_and_is_named_like_its_file(path: Path) -> None:
    dataset = load(DatasetSettings, path)
    assert dataset.name == path.stem
    assert dataset.source
    assert dataset.licence
    assert dataset.fetch


@pytest.mark.parametrize("path", DATASETS, ids=lambda p: p.name)
def test_a_dataset_can_be_read_once_its_files_are_there(path: Path, tmp_path: Path) -> None:
    dataset = load(DatasetSettings, path, [f"data_root={tmp_path}"])
    for name in dataset.annotations:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[]")
    assert list(Annotations(dataset)) == []


def test_the_datasets_of_the_reference_have_its_file_names() -> None:
    named = {n for p in DATASETS for n in load(DatasetSettings, p).annotations if "demo" not in p.name}
    stage_1 = {"pt_json/llava_image_.json", "pt_json/valley_.json"}
    stage_2 = {f"ft_json/{n}.json" for n in ("llava_image_tune_", "videochatgpt_tune_", "nlp_tune")}
    assert named == stage_1 | stage_2 | {"ft_json/VideoInstruct100K.json"}


@pytest.mark.parametrize("name", REAL_STAGES)
def test_a_stage_reads_what_the_datasets_write(name: str) -> None:
    outs = {load(DatasetSettings, p).out for p in DATASETS}
    assert {part.data for part in stage(name).mixture} <= outs


@pytest.mark.parametrize("path", [p for p in JOBS if p.name not in KINDS], ids=lambda p: p.name)
def test_the_global_batch_divides_over_the_workers(path: Path) -> None:
    settings = load(StageSettings, path)
    assert settings.global_batch % (settings.workers.num * settings.micro_batch) == 0


def test_the_stages_state_the_reference_hyperparameters() -> None:
    pretrain, finetune, lora = (stage(name) for name in REAL_STAGES)
    assert pretrain.rates == {"multi_modal_projector": 1e-3}
    assert (pretrain.global_batch, pretrain.image_aspect, pretrain.group_by_length) == (256, "square", False)
    assert finetune.rates == {"language_model": 2e-5, "multi_modal_projector": 2e-5}
    assert lora.rates == {"multi_modal_projector": 2e-5}
    assert lora.lora is not None
    assert (lora.lora.r, lora.lora.alpha, lora.lora.dropout, lora.lora.rate) == (128, 256, 0.05, 2e-4)
    for settings in (finetune, lora):
        assert (settings.global_batch, settings.image_aspect, settings.group_by_length) == (128, "pad", True)
        assert settings.start.model == pretrain.out
    for settings in (pretrain, finetune, lora):
        assert (settings.schedule.kind, settings.schedule.warmup_ratio) == ("cosine", 0.03)
        assert (settings.precision, settings.epochs, settings.seed) == ("bf16", 1, 42)
        assert settings.max_tokens >= 8 * 257 + 512, "a video's tokens and some text must fit"


def test_the_demo_job_needs_nothing_but_the_repository() -> None:
    demo = stage("demo_finetune")
    assert demo.start.random == "tiny"
    assert demo.workers.num * demo.workers.cpus <= 2
    parts = [load(DatasetSettings, REPO / part.data) for part in demo.mixture]
    assert all(part.drawn is not None for part in parts)
    assert len({(part.data_root, str(part.drawn)) for part in parts}) == 1, "one data root is drawn one way"


def test_prepare_yaml_is_the_dataset_of_the_same_name() -> None:
    mine = load(DatasetSettings, REPO / "jobs" / "prepare.yaml")
    theirs = load(DatasetSettings, REPO / "datasets" / f"{mine.name}.yaml")
    assert identity(mine) == identity(theirs)
    assert mine.out == theirs.out


def test_benchmarks_yaml_names_every_benchmark_and_its_folder() -> None:
    listed = yaml.safe_load((REPO / "datasets" / "benchmarks.yaml").read_text(encoding="utf-8"))
    here = set(listed)
    assert here == set(benchmarks.names())
    for name in here:
        assert listed[name]["folder"] == benchmarks.load(name).folder
        assert listed[name]["fetch"]


@pytest.mark.parametrize("path", sorted((REPO / "jobs").glob("*.py")), ids=lambda p: p.name)
def test_job_scripts_are_thin(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 12
