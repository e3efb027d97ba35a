"""Judging beside answering: what is committed is judged while the model goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from raypipe.benchmark import Asks
from raypipe.evaluate.scores import ANSWERED
from raypipe.judge.endpoint import find_key
from raypipe.judge.run import judge_run
from raypipe.records import Prediction, Verdict
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store
from raypipe.store.run import Progress


class Judging:
    """The judge of a run; without settings, one that judges nothing. A context manager.

    Args:
        rubrics: by benchmark; None: not judged.
        progress: called with verdicts settled and to settle.

    Raises:
        RequestError: no key or a bad address, before anything else is begun.
    """

    def __init__(
        self,
        store: Store,
        rubrics: Mapping[str, Asks | None],
        settings: JudgeSettings | None,
        *,
        use_ray: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self._store, self._rubrics, self._settings = store, rubrics, settings
        self._use_ray, self._progress = use_ray, progress
        self._answers: list[Prediction] = []
        if settings is not None and any(rubrics.values()):
            find_key(settings)

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Takes committed predictions; returns at once."""
        if self._settings is not None:
            self._answers += [
                p for p in predictions if self._rubrics.get(p.benchmark) and p.outcome in ANSWERED
            ]

    def finish(self) -> dict[str, Verdict]:
        """Waits for the verdicts on all that was added, by question id.

        Raises:
            ServiceError: the endpoint refuses; what was judged is committed.
        """
        if self._settings is None or not self._answers:
            return {}
        verdicts = judge_run(
            self._store,
            self._answers,
            self._rubrics.get,
            self._settings,
            use_ray=self._use_ray,
            progress=self._progress,
        )
        return {v.question_id: v for v in verdicts}

    def close(self) -> None:
        """Ends what is under way."""

    def __enter__(self) -> Judging:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
