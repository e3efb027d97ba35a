"""Metrics as Ray gets them."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from raypipe import gauges


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What reaches Ray in a process that is connected to it."""
    found: list[tuple] = []

    class Sent:
        def __init__(self, *declared):
            found.append(declared)

        def __getattr__(self, how):
            return lambda value, tags: found.append((how, value, tags))

    for kind in ("Gauge", "Counter", "Histogram"):
        monkeypatch.setattr(f"ray.util.metrics.{kind}", Sent)
    monkeypatch.setattr(gauges, "connected", lambda: True)
    return found


def test_a_metric_is_declared_when_it_first_has_a_value(sent):
    counter = gauges.Counter("raypipe_x", "text", ("run",))
    counter.add(0, run="a")  # Ray refuses to add nothing
    assert sent == []
    counter.add(2, run="a")
    counter.add(0.5, run="b")
    assert sent == [("raypipe_x", "text", ("run",)), ("inc", 2, {"run": "a"}), ("inc", 0.5, {"run": "b"})]
    sent.clear()
    gauges.Gauge("raypipe_y", "text", ("run",)).set(0, run="a")
    gauges.Histogram("raypipe_z", "text", ("run",), (1, 2)).observe(3, run="a")
    assert sent[1] == ("set", 0, {"run": "a"})
    assert sent[2:] == [("raypipe_z", "text", [1, 2], ("run",)), ("observe", 3, {"run": "a"})]


def test_names_as_prometheus_finds_them():
    assert gauges.Counter("a_seconds", "", ()).exported == ("ray_a_seconds_total",)
    assert gauges.Gauge("a_ratio", "", ()).exported == ("ray_a_ratio",)
    assert gauges.Histogram("a", "", (), (1,)).exported == ("ray_a_bucket", "ray_a_count", "ray_a_sum")


def test_without_ray_nothing_is_told_and_nothing_imported():
    script = (
        "import sys; from raypipe import gauges; "
        "gauges.Counter('a', '', ()).add(1); gauges.Gauge('b', '', ()).set(1); "
        "gauges.Histogram('c', '', (), (1,)).observe(1); print('ray' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_what_stands_is_said_again_until_ray_is_gone(sent, monkeypatch):
    """Ray forgets a gauge that nobody sets for some time."""
    monkeypatch.setattr(gauges, "REPEAT_S", 0.02)
    standing, begun = gauges._Standing(), threading.Event()
    repeat = standing._repeat
    monkeypatch.setattr(standing, "_repeat", lambda: begun.wait() and repeat())
    monkeypatch.setattr(gauges, "_standing", standing)
    gauge = gauges.Gauge("raypipe_y", "text", ("run",))
    gauge.set(1, run="a")
    gauge.set(2, run="a")
    gauge.set(5, run="b")
    begun.set()  # nothing was said again before all three were said
    thread = gauges._standing._thread
    while sent.count(("set", 5, {"run": "b"})) < 3:
        assert thread.is_alive()
    assert sent.count(("set", 1, {"run": "a"})) == 1
    assert sent.count(("set", 2, {"run": "a"})) >= 3
    monkeypatch.setattr(gauges, "connected", lambda: False)
    thread.join(10)
    assert not thread.is_alive()
    assert gauges._standing._values == {}
