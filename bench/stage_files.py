"""What a checkpoint of a stage takes on disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import loops
from bench.figure import Figure, plain

BYTES_EACH, SLACK = 14, 1.05


def checkpoint_bytes(pairs: int) -> Iterator[Figure]:
    """Stage 1 (the projector learns): bytes of its checkpoint over those of what learns."""
    with tempfile.TemporaryDirectory(prefix="raypipe-bench-checkpoint-") as folder:
        settings = loops.stage(out=f"{folder}/run", rates={"multi_modal_projector": 1e-3}, steps=4)
        loops.run_arm("alone", settings)
        records = sorted((Path(folder) / "run/checkpoints").glob("*.json"))
        size = sum(entry["bytes"] for entry in json.loads(records[-1].read_text())["files"].values())
    learns = 2 * (128 * 128 + 128)  # two linear layers of the tiny projector, with their biases
    what = "bytes of a stage-1 checkpoint a trained parameter (optimizer, weights, position), tiny VideoLlava"
    yield plain("checkpoint", what, size / learns, "bytes a parameter", BYTES_EACH * SLACK, parameters=learns)
