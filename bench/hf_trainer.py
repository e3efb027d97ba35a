"""The peer of the training loop: transformers' own Trainer on the same tiny model, samples and pixels.

It is used as one would: a map-style dataset that decodes in a worker process ahead of the step, batches
padded to their longest sample, the loss over all logits, no DeepSpeed.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers import trainer as trainer_module

from raypipe.model.build import LoadedModel
from raypipe.records import MediumKind
from raypipe.settings import StageSettings
from raypipe.train.collate import collate
from raypipe.train.examples import Examples


class Rows(torch.utils.data.Dataset):
    """Sample number -> what raypipe's own examples hold of it."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples.mixture)

    def __getitem__(self, number: int) -> Any:
        return self._examples[number]


def collated(rows: list[Any]) -> dict[str, torch.Tensor]:
    """A padded batch under the names of transformers' forward."""
    made = collate([(row,) for row in rows], torch.float32)
    out = {"input_ids": made.ids_BL, "attention_mask": made.mask_BL, "labels": made.labels_BL}
    if MediumKind.IMAGE in made.pixels:
        out["pixel_values_images"] = made.pixels[MediumKind.IMAGE]
    if MediumKind.VIDEO in made.pixels:
        frames = made.pixels[MediumKind.VIDEO]
        out["pixel_values_videos"] = frames.view(-1, 8, *frames.shape[1:])
    return out


class _Clock(TrainerCallback):
    """Seconds from the first step's end to the last one's: what starting costs is not in it."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last


def step_seconds(
    loaded: LoadedModel, examples: Examples, settings: StageSettings, steps: int, *, gpu: bool = False
) -> float:
    """Trains for some steps; mean seconds of a step."""
    trainer_module.is_datasets_available = lambda: False  # the folder datasets/ is not the package
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="raypipe-bench-hf-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings.global_batch,
            max_steps=steps + 1,
            learning_rate=max(settings.rates.values()),
            lr_scheduler_type="cosine",
            max_grad_norm=settings.optimizer.clip,
            use_cpu=not gpu,
            bf16=gpu,
            gradient_checkpointing=settings.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            dataloader_num_workers=8 if gpu else 1,
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
            logging_steps=10**6,
            disable_tqdm=True,
            seed=settings.seed,
        )
        trainer = Trainer(
            model=loaded.model,
            args=arguments,
            train_dataset=Rows(examples),
            data_collator=collated,
            callbacks=[clock],
        )
        trainer.train()
    return (clock.last - clock.first) / steps
