"""Judging beside answering: what is committed is judged while the model goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from raypipe.benchmark import Benchmark, wants_judge
from raypipe.errors import ServiceError
from raypipe.evaluate.scores import count_a_judge
from raypipe.grading.judging import by_question
from raypipe.judge.book import VIEW
from raypipe.judge.stream import JudgeStream
from raypipe.records import VERDICT_SCHEMA, Prediction, Verdict, verdicts_of
from raypipe.settings import EvaluateSettings, JudgeSettings
from raypipe.settings.base import build
from raypipe.store.files import Store
from raypipe.store.run import SETTINGS, Progress, Run
from raypipe.store.shards import Shard


class Judging:
    """The judge of a run; without settings, or without a benchmark to judge, one that does nothing.

    A context manager: at its end what is being asked is given up, and what was judged stays.

    Args:
        benchmarks: those of the run, by name.
        use_ray: ask from Ray actors; False: from a thread of this process.
        progress: called with verdicts settled and to settle, from another thread.
        at_once: see now that the judge can be asked, and not when the first answer has to be.

    Raises:
        RequestError: no key or a bad address, before anything else is begun.
    """

    def __init__(
        self,
        store: Store,
        benchmarks: Mapping[str, Benchmark],
        settings: JudgeSettings | None,
        *,
        use_ray: bool = True,
        progress: Progress | None = None,
        at_once: bool = True,
    ) -> None:
        self._benchmarks = benchmarks
        self._stream: JudgeStream | None = None
        if settings is not None and any(b.rubric for b in benchmarks.values()):
            self._stream = JudgeStream(
                store,
                lambda name: benchmarks[name].rubric,
                settings,
                use_ray=use_ray,
                progress=progress,
                at_once=at_once,
            )

    @property
    def spent_usd(self) -> float:
        """What all starts of the run have paid so far."""
        return self._stream.spent_usd if self._stream else 0.0

    @property
    def silence(self) -> ServiceError | None:
        """Why the judge counts as down; None: it answers, or was not asked."""
        return self._stream.silence if self._stream else None

    def wants(self, benchmark: str) -> bool:
        """Whether answers to a benchmark may have to be judged."""
        return self._stream is not None and self._benchmarks[benchmark].rubric is not None

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Takes committed predictions; returns at once. A fault of the judge is kept for ``finish``."""
        if self._stream is not None:
            self._stream.add([p for p in predictions if wants_judge(self._benchmarks[p.benchmark], p)])

    def finish(self) -> dict[str, list[Verdict]]:
        """Waits for the verdicts on all that was added, by question id: one for each rubric.

        Raises:
            ServiceError: the endpoint refuses or is down, or the money ceiling is reached; what was judged
                is committed.
        """
        return by_question(self._stream.finish()) if self._stream else {}

    def __enter__(self) -> Judging:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._stream is not None:
            # What went wrong before is what has to be said.
            with contextlib.suppress(Exception) if kind else contextlib.nullcontext():
                self._stream.close()


def with_judge_before(settings: EvaluateSettings) -> EvaluateSettings:
    """The settings of a run that is started again without a judge: with the one that has judged it.

    Raises:
        RequestError: the folder holds another run.
    """
    run = Run(settings.out)
    if settings.judge is not None or not run.store.exists(SETTINGS):
        return settings
    run.check_identity("evaluate", settings)
    before = run.settings["settings"].get("judge")
    if before is None or not is_judged(run):
        return settings
    return settings.model_copy(update={"judge": build(JudgeSettings, before, SETTINGS)})


def is_judged(run: Run) -> bool:
    """Whether a judge has been through the answers as they are now, if only to find none for it."""
    return bool(verdicts_in(run)) or count_a_judge(run)


def verdicts_in(run: Run) -> dict[str, list[Verdict]]:
    """The verdicts that count in a run, by question id; none where its answers are not the judged ones."""
    if not run.store.exists(VIEW):
        return {}
    return by_question(verdicts_of(Shard(run.store, VIEW, VERDICT_SCHEMA).table().to_pylist()))
