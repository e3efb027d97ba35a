"""What an evaluation tells the dashboard."""

import contextlib

from raypipe.evaluate.gauges import Busy, count_load


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_actor_is_busy_while_any_unit_has_its_engine(told):
    clock = Clock()
    count_load("run", 5.0)
    busy = Busy("run", clock)
    clock.now = 1.0
    with busy.unit():
        clock.now = 3.0
        with busy.unit():  # another thread's
            clock.now = 4.0
        clock.now = 6.0
    clock.now = 7.5
    with busy.unit():
        clock.now = 8.0
    seconds = told.sums("raypipe_evaluate_actor_seconds")
    assert seconds == {("run", "load"): 5.0, ("run", "idle"): 2.5, ("run", "busy"): 5.5}


def test_a_unit_that_fails_ends_all_the_same(told):
    clock = Clock()
    busy = Busy("run", clock)

    for _ in range(2):
        with contextlib.suppress(ValueError), busy.unit():
            clock.now += 1.0
            raise ValueError
        clock.now += 10.0
    with busy.unit():
        pass
    assert told.sums("raypipe_evaluate_actor_seconds") == {("run", "busy"): 2.0, ("run", "idle"): 20.0}
