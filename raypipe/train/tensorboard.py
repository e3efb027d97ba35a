"""TensorBoard event files of a run, on local disk or S3: written beside it, put there whole now and then."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypipe.store.files import Store

FOLDER = "tensorboard"
EVERY_S = 30.0
FILE_BYTES = 4 << 20  # then a new file is begun, so that no large one is put again and again
TAGS = {
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "grad_norm": "train/gradient_norm",
    "epoch": "train/epoch",
    "tokens_s": "speed/tokens_per_second",
    "samples_s": "speed/samples_per_second",
    "step_s": "speed/step_seconds",
    "mfu": "speed/mfu",
    "data_wait": "speed/data_wait_share",
    "useful": "data/useful_share",
    "cut": "data/cut",
    "dropped": "data/dropped",
}


class TensorBoard:
    """Takes rows of metrics; each attempt writes files of its own that hide what an earlier one repeats."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = tempfile.TemporaryDirectory(prefix="raypipe-tensorboard-")
        self._writer: Any = None
        self._put = time.monotonic()
        self._new = False

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            writer = self._writer or self._begin(row)
            said = {tag: row.get(key) for key, tag in TAGS.items()}
            values = [
                {"tag": tag, "simple_value": float(value)}
                for tag, value in said.items()
                if value is not None and math.isfinite(value)
            ]
            writer.write_event(self._event(step=row["step"], summary={"value": values}))
            self._new = True

    def flush(self, final: bool) -> None:
        """Puts the file into the run, at most every ``EVERY_S`` unless it is the last time."""
        if self._writer is None or not (final or (self._new and time.monotonic() - self._put > EVERY_S)):
            return
        self._writer.flush()
        size = 0
        for file in Path(self._folder.name).iterdir():
            self._store.replace_from(f"{FOLDER}/{file.name}", file)
            size = file.stat().st_size
        self._put, self._new = time.monotonic(), False
        if final or size > FILE_BYTES:
            self._writer.close()
            self._writer = None
            for file in Path(self._folder.name).iterdir():
                file.unlink()

    def _begin(self, row: dict[str, Any]) -> Any:
        # Not SummaryWriter, whose flush leaves what is still in its queue behind.
        from tensorboardX.event_file_writer import EventsWriter

        suffix = f".{row.get('attempt', 1)}-{row['step']}"
        self._writer = EventsWriter(f"{self._folder.name}/events", suffix)
        # What an earlier attempt has said of this step and later ones is void.
        self._writer.write_event(self._event(step=row["step"], file_version="brain.Event:2"))
        self._writer.write_event(self._event(step=row["step"], session_log={"status": 1}))
        return self._writer

    def _event(self, **fields: Any) -> Any:
        from tensorboardX.proto.event_pb2 import Event

        return Event(wall_time=time.time(), **fields)
