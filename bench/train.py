"""The figures of train: ``python -m bench.train [--only NAME ...] [--pairs N] [--out FILE]``."""

from __future__ import annotations

from bench import loading, loops, loss_head, stage_files
from bench.command import Figures, arguments, measure

FIGURES: Figures = {
    "loss_head": loss_head.loss_head,
    "against_trainer": loops.against_trainer,
    "ray_tax": loops.ray_tax,
    "loader_bound": loading.against_bound,
    "loader_ray": loading.against_ray,
    "data_wait": loading.data_wait,
    "checkpoint": stage_files.checkpoint_bytes,
}


def main() -> None:
    measure("train", FIGURES, arguments("train", list(FIGURES)))


if __name__ == "__main__":
    main()
