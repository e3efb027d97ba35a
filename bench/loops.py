"""Whole training loops against each other: transformers' Trainer, the same loop under torchrun."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import trained
from bench.figure import Figure, figure
from bench.pairs import timed
from raypipe.settings import StageSettings

STEPS, BATCH = 60, 16


def against_trainer(pairs: int) -> Iterator[Figure]:
    """One worker against transformers' Trainer: equal samples a step, so seconds compare."""
    peer = "transformers' Trainer, one loader process, padded batches, full logits, plain torch AdamW"
    ours, packed = stage(), stage(packing=True, micro_batch=4)
    arms = [lambda: _arm("alone", ours), lambda: _arm("alone", packed), lambda: _arm("transformers", ours)]
    found = zip(("loop", "loop_packed"), ("no packing", "packed rows"), (1.0, 1 / 1.3), strict=True)
    for (name, how, target), ratio in zip(found, timed(arms, pairs), strict=True):
        what = f"raypipe's loop (ZeRO-2, one worker, {how}), tiny VideoLlava, {BATCH} samples a step"
        yield figure(name, what, peer, ratio, round(target, 4), speedup=round(1 / ratio.median, 3))


def ray_tax(pairs: int) -> Iterator[Figure]:
    """The same loop under Ray Train and under torchrun."""
    settings = stage(steps=200)
    (ratio,) = timed([lambda: _arm("ray", settings), lambda: _arm("torchrun", settings)], pairs)
    what = "a step under Ray Train, one worker, 200 steps"
    yield figure("ray_train", what, "the same loop under torchrun", ratio, 1.03)


def stage(**more: Any) -> StageSettings:
    values: dict[str, Any] = {
        "name": "bench",
        "out": "unused",
        "start": {"random": "tiny", "family": "video_llava_hf"},
        "mixture": [{"data": str(trained.mixed())}],
        "rates": {"language_model": 1e-3, "multi_modal_projector": 1e-3},
        "steps": STEPS,
        "global_batch": BATCH,
        "micro_batch": BATCH,
        "max_tokens": 512,
        "precision": "fp32",
        "gradient_checkpointing": False,
        "checkpoint": {"every_steps": 10**6},
    }
    return StageSettings.model_validate({**values, **more})


def _arm(how: str, settings: StageSettings) -> float:
    """Seconds of a step of one arm, in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="raypipe-bench-loop-") as folder:
        return run_arm(how, settings.model_copy(update={"out": f"{folder}/run"}))


def run_arm(how: str, settings: StageSettings) -> float:
    """The same in the folder that the settings name."""
    file = Path(settings.out).with_suffix(".json")
    file.write_text(settings.model_dump_json())
    command = [sys.executable, "-m", "bench.loop_arm", how, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the arm '{how}' failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["step_s"])
