"""What code tells Ray's metrics, without a Ray."""

from __future__ import annotations

from collections import defaultdict

import pytest

from raypipe import gauges

Values = dict[tuple[str, ...], list[float]]


class Told:
    """Every value by its metric's name and the values of its tags, in the order of the metric's tags.

    Tags that a metric does not have, or lacks, fail the test: Ray refuses them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: dict[str, Values] = defaultdict(lambda: defaultdict(list))
        for kind, method in ((gauges.Counter, "add"), (gauges.Gauge, "set"), (gauges.Histogram, "observe")):
            monkeypatch.setattr(
                kind, method, lambda metric, value, /, **tags: self._take(metric, value, tags)
            )

    def _take(self, metric: gauges.Metric, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(metric.tags), f"{metric.name}: {tags}"
        assert all(type(tag) is str for tag in tags.values()), f"{metric.name}: {tags}"
        if value or not isinstance(metric, gauges.Counter):
            self.values[metric.name][tuple(tags[name] for name in metric.tags)].append(value)

    def sums(self, name: str) -> dict[tuple[str, ...], float]:
        """What a counter adds up to."""
        return {tags: sum(values) for tags, values in self.values[name].items()}

    def last(self, name: str) -> dict[tuple[str, ...], float]:
        """Where a gauge stands."""
        return {tags: values[-1] for tags, values in self.values[name].items()}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)
