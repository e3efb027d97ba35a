"""What training tells the dashboard: rank 0 the rows of its metrics, the driver validation's figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raypipe.gauges import Counter, Gauge, Histogram

TAGS = ("run",)
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def _gauge(name: str, text: str) -> Gauge:
    return Gauge(f"raypipe_train_{name}", text, TAGS)


def _counter(name: str, text: str) -> Counter:
    return Counter(f"raypipe_train_{name}", text, TAGS)


NEWEST = {  # of a row's fields
    "loss": _gauge("loss", "loss of the newest step"),
    "grad_norm": _gauge("gradient_norm", "norm of the newest step's gradient"),
    "lr": _gauge("learning_rate", "the highest learning rate"),
    "tokens_s_mean": _gauge("tokens_per_second", "tokens per second over the last steps, of all workers"),
    "samples_s_mean": _gauge("samples_per_second", "samples per second over the last steps, of all workers"),
    "mfu_mean": _gauge("mfu_ratio", "share of the devices' peak over the last steps"),
    "data_wait_mean": _gauge("data_wait_ratio", "share of the time that waits for data, over the last steps"),
    "useful": _gauge("useful_ratio", "share of tokens in all computed positions, the rest is padding"),
    "step": _gauge("step", "optimizer steps done"),
    "steps": _gauge("planned_steps", "optimizer steps of the whole stage"),
    "eta_s": _gauge("remaining_seconds", "time to the last step at the pace of the last ones"),
    "world": _gauge("workers", "workers that train"),
}
SUMMED = {
    "tokens": _counter("tokens", "tokens trained on"),
    "samples": _counter("samples", "samples trained on"),
    "images": _counter("images", "images trained on"),
    "video_frames": _counter("video_frames", "frames of videos trained on"),
    "step_s": _counter("work_seconds", "seconds of the steps"),
    "data_wait_s": _counter("data_wait_seconds", "seconds of the steps that waited for data"),
}
STEPS = Histogram("raypipe_train_step_seconds", "seconds a step takes", TAGS, SECONDS)
RESTARTS = _gauge("restarts", "times the workers were started again")
CHECKPOINTS = _counter("checkpoints", "checkpoints made")
GPU_MEMORY = _gauge("gpu_memory_peak_bytes", "most memory that tensors took on rank 0's GPU; none on CPUs")
VALIDATION_LOSS = _gauge("validation_loss", "loss of the newest validated checkpoint")
VALIDATION_STEP = _gauge("validation_step", "step of the newest validated checkpoint")
VALIDATION_SCORE = Gauge(
    "raypipe_train_validation_score",
    "a benchmark's metric for the newest validated checkpoint",
    (*TAGS, "benchmark", "metric"),
)


class RayMetrics:
    """Takes rows of metrics; in the worker that writes them, rank 0.

    Args:
        run: the tag of all metrics.
        checkpoints: says how many checkpoints this worker has made so far.
        gpu_bytes: says how much memory of a GPU was taken at most; None: there is no GPU.
    """

    def __init__(
        self, run: str, checkpoints: Callable[[], int], gpu_bytes: Callable[[], int] | None = None
    ) -> None:
        self._run, self._checkpoints, self._gpu_bytes = run, checkpoints, gpu_bytes
        self._counted = 0

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            STEPS.observe(row["step_s"], run=self._run)
        for key, counter in SUMMED.items():
            counter.add(sum(row.get(key) or 0 for row in rows), run=self._run)
        if not rows:
            return
        for key, gauge in NEWEST.items():
            if rows[-1].get(key) is not None:
                gauge.set(rows[-1][key], run=self._run)
        RESTARTS.set(rows[-1]["attempt"] - 1, run=self._run)
        if self._gpu_bytes:
            GPU_MEMORY.set(self._gpu_bytes(), run=self._run)

    def flush(self, final: bool) -> None:
        made = self._checkpoints()
        CHECKPOINTS.add(made - self._counted, run=self._run)
        self._counted = made


def tell_validation(run: str, record: Mapping[str, Any]) -> None:
    """In the driver: the figures of a checkpoint; a score that failed has none."""
    if record.get("fault"):
        return
    VALIDATION_STEP.set(record["step"], run=run)
    if record.get("loss") is not None:
        VALIDATION_LOSS.set(record["loss"], run=run)
    for benchmark, metrics in record.get("benchmarks", {}).items():
        for metric, value in metrics.items():
            if value is not None:
                VALIDATION_SCORE.set(value, run=run, benchmark=benchmark, metric=metric)
