"""Runs a small demo into a folder: the body of the process that the kill test kills."""

from __future__ import annotations

import sys

from raypipe.demo.config import Size
from raypipe.demo.draw import DrawSettings
from raypipe.demo.run import run_demo

SMALL = Size(
    draw=DrawSettings(train_clips=24, train_images=24, heldout_clips=40, heldout_images=8),
    steps=(("pretrain", 4), ("finetune", 24), ("lora", 4)),
    checkpoints=4,
)

if __name__ == "__main__":
    run_demo(sys.argv[1], SMALL)
