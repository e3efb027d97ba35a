"""What raypipe tells Ray's metrics, from where the dashboard and Prometheus take it.

Each verb declares its metrics in its own ``gauges`` module. Names follow Prometheus' conventions: base
units, ``_ratio`` for shares, no ``_total``, which Ray adds to counters, as it puts ``ray_`` before all of
them. A counter goes on adding up where its process ends; a gauge is gone some seconds later. A histogram's
sum is made from the middles of its buckets, so what has to add up is a counter.

Ray forgets a gauge that nobody sets for two of its reporting intervals. A step, a unit or a judge's reply may
take longer, so a thread says again what still stands.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any

PREFIX = "ray_"
REPEAT_S = 5.0  # Ray reports every 10 s, unless metrics_report_interval_ms is set


@dataclass(frozen=True)
class Metric:
    """One metric. Nothing is told, and nothing imported, in a process that is not connected to Ray.

    Args:
        tags: the labels that every value has to come with; Ray adds those of the node.
    """

    name: str
    text: str
    tags: tuple[str, ...]

    @property
    def exported(self) -> tuple[str, ...]:
        """The names under which Prometheus finds it."""
        return (PREFIX + self.name,)

    @cached_property
    def _at_ray(self) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Counter(Metric):
    """What only grows."""

    def add(self, amount: float, /, **tags: str) -> None:
        if amount > 0 and connected():  # Ray refuses to add nothing
            self._at_ray.inc(amount, tags)

    @property
    def exported(self) -> tuple[str, ...]:
        return (f"{PREFIX}{self.name}_total",)

    @cached_property
    def _at_ray(self) -> Any:
        from ray.util.metrics import Counter

        return Counter(self.name, self.text, self.tags)


@dataclass(frozen=True)
class Gauge(Metric):
    """What stands at some value until it is set again or its process ends."""

    def set(self, value: float, /, **tags: str) -> None:
        if connected():
            self._at_ray.set(value, tags)
            _standing.take(self, value, tags)

    def again(self, value: float, tags: dict[str, str]) -> None:
        self._at_ray.set(value, tags)

    @cached_property
    def _at_ray(self) -> Any:
        from ray.util.metrics import Gauge

        return Gauge(self.name, self.text, self.tags)


@dataclass(frozen=True)
class Histogram(Metric):
    """How often what lies between which bounds."""

    bounds: tuple[float, ...]

    def observe(self, value: float, /, **tags: str) -> None:
        if connected():
            self._at_ray.observe(value, tags)

    @property
    def exported(self) -> tuple[str, ...]:
        return tuple(f"{PREFIX}{self.name}_{part}" for part in ("bucket", "count", "sum"))

    @cached_property
    def _at_ray(self) -> Any:
        from ray.util.metrics import Histogram

        return Histogram(self.name, self.text, list(self.bounds), self.tags)


class _Standing:
    """Where this process's gauges stand, said again every ``REPEAT_S`` while it is connected to Ray."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], tuple[Gauge, float, dict[str, str]]] = {}
        self._thread: threading.Thread | None = None

    def take(self, gauge: Gauge, value: float, tags: dict[str, str]) -> None:
        with self._lock:
            self._values[gauge.name, *tags.values()] = (gauge, value, tags)
            if self._thread is None:
                self._thread = threading.Thread(target=self._repeat, name="gauges", daemon=True)
                self._thread.start()

    def _repeat(self) -> None:
        wait = threading.Event().wait
        while not wait(REPEAT_S):
            with self._lock:
                if not connected():
                    self._values.clear()
                    self._thread = None
                    return
                for gauge, value, tags in self._values.values():
                    gauge.again(value, tags)


_standing = _Standing()


def connected() -> bool:
    """Whether this process is a worker of a Ray cluster, or a driver."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def run_of(folder: str) -> str:
    """What a run goes by on the dashboard: its folder's own name.

    >>> run_of("s3://bucket/runs/finetune/")
    'finetune'
    """
    return folder.rstrip("/").rpartition("/")[2]
