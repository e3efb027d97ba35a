"""The demo's settings: the same objects that yaml files make for a real run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypipe.demo.draw import DrawSettings
from raypipe.settings import (
    Checkpoints,
    DatasetSettings,
    EvaluateSettings,
    JudgeSettings,
    Lora,
    Optimizer,
    Part,
    Rendition,
    Sampling,
    Schedule,
    StageSettings,
    Start,
    Workers,
)

SIDE_PX = 28  # of the tiny model's pictures: four patches and a class token a frame
SEED = 7
ANNOTATIONS = {
    "pretrain": ["pt_json/llava_image_.json", "pt_json/valley_.json"],
    "finetune": [
        "ft_json/llava_image_tune_.json",
        "ft_json/videochatgpt_tune_.json",
        "ft_json/nlp_tune.json",
    ],
    "lora": ["lora_json/size_tune_.json"],
}
JUDGE_NAME = "deterministic matching judge, not an LLM"
WORKERS = Workers(num=2, cpus=1, threads=1)


@dataclass(frozen=True)
class Size:
    """How much the demo draws and how long each stage is. Tests run a small one."""

    draw: DrawSettings = field(default_factory=DrawSettings)
    steps: tuple[tuple[str, int], ...] = (("pretrain", 30), ("finetune", 500), ("lora", 140))
    checkpoints: int = 5  # a stage

    def stage_steps(self, name: str) -> int:
        return dict(self.steps)[name]


FULL = Size()


def dataset(out: Path, name: str) -> DatasetSettings:
    return DatasetSettings(
        name=name,
        source="drawn by raypipe",
        licence="Apache-2.0",
        data_root=str(out / "data" / "DATA_ROOT"),
        annotations=ANNOTATIONS[name],
        sampling=Sampling(frames=8),
        rendition=Rendition(short_side=SIDE_PX),
        media_per_shard=128,
        out=str(out / "prepared" / name),
    )


def stage(out: Path, name: str, size: Size = FULL) -> StageSettings:
    """Pretraining (projector), finetuning (language model and projector) or LoRA over the finetuned model."""
    steps = size.stage_steps(name)
    common: dict[str, Any] = {
        "name": name,
        "out": str(out / "train" / name),
        "mixture": [Part(data=str(out / "prepared" / name))],
        "max_tokens": 256,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "optimizer": Optimizer(betas=(0.9, 0.95)),
        "schedule": Schedule(warmup_ratio=0.05),
        "workers": WORKERS,
        "global_batch": 32,
        "micro_batch": 16,
        "seed": SEED,
        "epochs": None,
        "steps": steps,
        "checkpoint": Checkpoints(every_steps=max(1, steps // size.checkpoints)),
    }
    if name == "pretrain":
        start, learns = Start(model=str(untrained(out))), {"multi_modal_projector": 2e-3}
        return StageSettings(**common, start=start, rates=learns)
    if name == "finetune":
        start = Start(model=str(out / "train" / "pretrain"))
        learns = {"multi_modal_projector": 2e-3, "language_model": 2e-3}
        return StageSettings(**common, start=start, rates=learns)
    return StageSettings(
        **common,
        start=Start(model=str(out / "train" / "finetune")),
        rates={"multi_modal_projector": 5e-4},
        lora=Lora(r=16, alpha=32, dropout=0.0, rate=2e-3),
    )


def untrained(out: Path) -> Path:
    """Where the model with random weights lies that everything starts from."""
    return out / "models" / "untrained"


def evaluations(out: Path, judge_url: str) -> dict[str, EvaluateSettings]:
    """The evaluations by the label the report gives them."""
    judge = JudgeSettings(name=JUDGE_NAME, base_url=judge_url, model="raypipe-matching-judge", concurrency=16)
    trained, adapter = str(out / "train" / "finetune"), str(out / "train" / "lora")
    which: dict[str, dict[str, Any]] = {
        "untrained": {"model": str(untrained(out))},
        "trained": {"model": trained},
        "one frame": {"model": trained, "control": "repeat_frame", "benchmarks": ["msvd_qa"]},
        "lora": {"model": adapter, "model_base": trained},
    }
    return {
        label: EvaluateSettings(
            **{
                "benchmarks": ["msvd_qa", "pope", "gqa"],
                "eval_root": str(out / "data" / "eval"),
                "out": str(out / "evaluate" / label.replace(" ", "_")),
                "max_new_tokens": 8,
                "precision": "fp32",
                "media_per_unit": 24,
                "batch": 120,
                "judge": judge,
                **chosen,
            }
        )
        for label, chosen in which.items()
    }
