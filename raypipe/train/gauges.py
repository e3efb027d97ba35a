"""The newest row as Ray metrics, which the dashboard and Prometheus show; in Ray Train workers only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

GAUGES = {
    "loss": ("raypipe_train_loss", "loss of the newest step"),
    "lr": ("raypipe_train_learning_rate", "the highest learning rate"),
    "tokens_s_mean": ("raypipe_train_tokens_per_second", "tokens per second over the last steps"),
    "samples_s_mean": ("raypipe_train_samples_per_second", "samples per second over the last steps"),
    "mfu_mean": ("raypipe_train_mfu", "share of the device's peak over the last steps"),
    "data_wait_mean": ("raypipe_train_data_wait", "share of the time that waits for data"),
    "step": ("raypipe_train_step", "optimizer steps done"),
}
SECONDS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
TAG = ("run",)


class RayMetrics:
    """Takes rows of metrics.

    Args:
        run: the stage's name, the tag of all metrics.
        checkpoints: says how many checkpoints this worker has made so far.
    """

    def __init__(self, run: str, checkpoints: Callable[[], int]) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        self._tags, self._checkpoints, self._counted = {"run": run}, checkpoints, 0
        self._gauges = {key: Gauge(name, text, TAG) for key, (name, text) in GAUGES.items()}
        self._restarts = Gauge("raypipe_train_restarts", "times the workers were started again", TAG)
        self._made = Counter("raypipe_train_checkpoints", "checkpoints made by this worker", TAG)
        self._steps = Histogram("raypipe_train_step_seconds", "seconds a step takes", SECONDS, TAG)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self._steps.observe(row["step_s"], self._tags)
        if rows:
            for key, gauge in self._gauges.items():
                if rows[-1].get(key) is not None:
                    gauge.set(rows[-1][key], self._tags)
            self._restarts.set(rows[-1]["attempt"] - 1, self._tags)

    def flush(self, final: bool) -> None:
        made = self._checkpoints()
        if made > self._counted:  # Ray refuses to add nothing
            self._made.inc(made - self._counted, self._tags)
            self._counted = made
