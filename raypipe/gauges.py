"""What raypipe tells Ray's metrics, from where the dashboard and Prometheus take it.

Each verb declares its metrics in its own ``gauges`` module. Names follow Prometheus' conventions: base
units, ``_ratio`` for shares, no ``_total``, which Ray adds to counters, as it puts ``ray_`` before all of
them. A counter goes on adding up where its process ends; a gauge is gone some seconds later. A histogram's
sum is made from the middles of its buckets, so what has to add up is a counter.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

PREFIX = "ray_"


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
    """What stands at some value; of several processes with the same tags the last one counts."""

    def set(self, value: float, /, **tags: str) -> None:
        if connected():
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
