"""What an evaluation tells the dashboard: workers what they read and answered, the driver what is left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Sequence

from raypipe.gauges import Counter, Gauge, Histogram
from raypipe.records import Medium, Prediction, Rejection

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
TAGS = ("run", "benchmark")
LOAD, IDLE, BUSY = "load", "idle", "busy"

MEDIA = Counter("raypipe_evaluate_media", "media read, by outcome (ok or the reason)", (*TAGS, "outcome"))
QUESTIONS = Counter("raypipe_evaluate_questions", "questions by outcome", (*TAGS, "outcome"))
TOKENS = Counter("raypipe_evaluate_new_tokens", "tokens generated", TAGS)
UNITS = Histogram("raypipe_evaluate_unit_seconds", "seconds to answer a unit", TAGS, SECONDS)
ACTORS = Counter(
    "raypipe_evaluate_actor_seconds",
    "seconds that the model's actors load it, answer (busy) or wait (idle), together",
    ("run", "state"),
)
LEFT = Gauge(
    "raypipe_evaluate_remaining_questions", "questions of this start without an answer yet", ("run",)
)


def count_media(run: str, benchmark: str, media: Iterable[Medium | Rejection]) -> None:
    """Counts media that were read, by outcome: ok, or the reason why not."""
    for outcome, count in Counts(m.reason if isinstance(m, Rejection) else "ok" for m in media).items():
        MEDIA.add(count, run=run, benchmark=benchmark, outcome=str(outcome))


def count_answers(run: str, benchmark: str, predictions: Sequence[Prediction], took_s: float) -> None:
    """Counts what became of a unit's questions, and how long it had the model."""
    for outcome, count in Counts(str(p.outcome) for p in predictions).items():
        QUESTIONS.add(count, run=run, benchmark=benchmark, outcome=outcome)
    TOKENS.add(sum(p.new_tokens for p in predictions), run=run, benchmark=benchmark)
    UNITS.observe(took_s, run=run, benchmark=benchmark)


def count_load(run: str, took_s: float) -> None:
    """Counts the time that an actor took to load the model."""
    ACTORS.add(took_s, run=run, state=LOAD)


class Busy:
    """Tells how an actor with the model spends its time, whatever it computes on; threads may share it.

    It is busy while at least one unit has its engine, so that its share says whether more actors, or more
    reading, would help.
    """

    def __init__(self, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock, self._lock = run, clock, threading.Lock()
        self._since, self._state, self._units = clock(), IDLE, 0

    @contextlib.contextmanager
    def unit(self) -> Iterator[None]:
        """Around what the engine does for a unit."""
        with self._lock:
            self._units += 1
            self._becomes(BUSY)
        try:
            yield
        finally:
            with self._lock:
                self._units -= 1
                self._becomes(BUSY if self._units else IDLE)

    def _becomes(self, state: str) -> None:
        now = self._clock()
        ACTORS.add(now - self._since, run=self._run, state=self._state)
        self._since, self._state = now, state
