"""Judges the predictions of a run: asks what the ledger cannot answer, and commits as it goes.

The ledger is the folder ``verdicts`` of the run. Every verdict goes into it, the failed and unreadable
ones too, so that a report can count them; but only a verdict with outcome OK is done. The next run
asks the others again, and of several verdicts on a question the one with outcome OK counts. Verdicts
by another judge, model, temperature or rubric have other keys and are never taken for this judge's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from raypipe.errors import RaypipeError
from raypipe.grading.rubrics import rubric_named
from raypipe.judge.batch import BATCH, Case, Judged, LocalPool, Pool
from raypipe.judge.client import JUDGED, verdict_key
from raypipe.records import VERDICT_SCHEMA, Outcome, Prediction, Verdict, fingerprint, verdicts_of
from raypipe.settings import JudgeSettings, Price
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from raypipe.store.run import Progress

VERDICTS = "verdicts"  # the ledger's folder
TOKENS_PER_PRICE = 1_000_000

RubricOf = Callable[[str], str | None]  # benchmark name -> rubric name; None: not judged


def judge_run(
    run_store: Store,
    predictions: Sequence[Prediction],
    rubric_of: RubricOf,
    settings: JudgeSettings,
    *,
    use_ray: bool = True,
    known: Iterable[Verdict] = (),
    progress: Progress | None = None,
) -> list[Verdict]:
    """Verdicts on these predictions, from the ledger where it has them, else from the judge.

    Identical contents are asked once and the verdict is shared. Predictions that are no answers
    (medium bad, generation failed) and benchmarks without a rubric are not judged.

    Args:
        run_store: the run; its ledger ``verdicts`` is read and added to.
        predictions: at most one per question and model under test.
        rubric_of: which rubric judges a benchmark.
        settings: the judge.
        use_ray: judge in Ray actors; False: in a thread of this process.
        known: verdicts of other runs; those with the same content and judge are taken over for free.
        progress: called with questions settled and questions to settle, in all.

    Returns:
        One verdict per judged prediction, in their order; see the outcome of each.

    Raises:
        RequestError: no such rubric, no key, or a bad address.
        ServiceError: the endpoint refuses the run. What was judged is committed, so a second call continues.
    """
    book = _Book(Ledger(run_store, VERDICTS, VERDICT_SCHEMA), settings)
    keys = [book.add(case) for case in _cases(predictions, rubric_of)]
    book.take_over(known)
    tell = progress or (lambda done, total: None)
    tell(book.settled, len(keys))
    open_cases = book.open_cases()
    if open_cases:
        pool = _pool(settings, use_ray)
        try:
            for verdicts in _ask(pool, open_cases):
                book.commit(verdicts)
                tell(book.settled, len(keys))
        finally:
            pool.close()
    return [book.verdict(key, question_id) for key, question_id in keys]


def cost_usd(verdicts: Iterable[Verdict], price: Price) -> float:
    """What the judge's replies cost, in US dollars; a verdict that questions share was paid once.

    Requests that ended without a reply are not in it: the endpoint reports no tokens for them.
    """
    paid = {v.key: v for v in verdicts}.values()
    prompt = sum(v.prompt_tokens for v in paid) * price.prompt
    return (prompt + sum(v.reply_tokens for v in paid) * price.reply) / TOKENS_PER_PRICE


class _Book:
    """The questions to settle, by the key of their content, and the verdicts found for them."""

    def __init__(self, ledger: Ledger, settings: JudgeSettings) -> None:
        self._ledger, self._settings = ledger, settings
        self._cases: dict[str, list[Case]] = {}
        self._verdicts: dict[str, Verdict] = {}  # by key
        self._own: dict[tuple[str, str], Verdict] = {}  # those the ledger had, by key and question id
        self.settled = 0

    def add(self, case: Case) -> tuple[str, str]:
        """Notes a question; returns its key and id."""
        key = verdict_key(case.prediction, rubric_named(case.rubric), self._settings)
        self._cases.setdefault(key, []).append(case)
        return key, case.prediction.question_id

    def take_over(self, known: Iterable[Verdict]) -> None:
        """Takes what the ledger has, then what others know, and commits what the ledger lacked of it."""
        for verdict in verdicts_of(self._ledger.rows()):
            if self._is_done(verdict):
                self._verdicts[verdict.key] = verdict
                self._own[verdict.key, verdict.question_id] = verdict
        for verdict in known:
            if self._is_done(verdict):
                self._verdicts.setdefault(verdict.key, verdict)
        rows = [row for v in self._verdicts.values() for row in self._rows(v)]
        self._append([row for row in rows if (row.key, row.question_id) not in self._own])
        self.settled = sum(len(self._cases[key]) for key in self._verdicts)

    def open_cases(self) -> list[Case]:
        """One case for each content that has no verdict yet."""
        return [cases[0] for key, cases in self._cases.items() if key not in self._verdicts]

    def commit(self, verdicts: Sequence[Verdict]) -> None:
        """Writes the verdicts as one segment, one row for each question that shares them."""
        for verdict in verdicts:
            self._verdicts[verdict.key] = verdict
            self.settled += len(self._cases[verdict.key])
        self._append([row for verdict in verdicts for row in self._rows(verdict)])

    def verdict(self, key: str, question_id: str) -> Verdict:
        own = self._own.get((key, question_id))
        return own or dataclasses.replace(self._verdicts[key], question_id=question_id)

    def _is_done(self, verdict: Verdict) -> bool:
        return verdict.outcome == Outcome.OK and verdict.key in self._cases

    def _rows(self, verdict: Verdict) -> list[Verdict]:
        ids = dict.fromkeys(case.prediction.question_id for case in self._cases[verdict.key])
        return [dataclasses.replace(verdict, question_id=question_id) for question_id in ids]

    def _append(self, rows: Sequence[Verdict]) -> None:
        if rows:
            name = fingerprint(*sorted(repr(dataclasses.astuple(row)) for row in rows))
            self._ledger.append(name, rows)


def _cases(predictions: Iterable[Prediction], rubric_of: RubricOf) -> Iterator[Case]:
    for prediction in predictions:
        rubric = rubric_of(prediction.benchmark)
        if rubric is not None and prediction.outcome in JUDGED:
            yield Case(prediction, rubric)


def _pool(settings: JudgeSettings, use_ray: bool) -> Pool:
    if not use_ray:
        return LocalPool(settings)
    from raypipe.judge.pool import RayPool  # only here: judging without a cluster needs no Ray

    return RayPool(settings)


def _ask(pool: Pool, cases: Sequence[Case]) -> Iterator[Sequence[Verdict]]:
    """Keeps the pool busy; yields each batch's verdicts when it is finished.

    Raises:
        RaypipeError: the run has to stop, after the batches that were under way were yielded.
    """
    todo = iter([cases[i : i + BATCH] for i in range(0, len(cases), BATCH)])
    waiting: set[Future[Judged]] = set()
    stop: RaypipeError | None = None
    while True:
        while stop is None and len(waiting) < pool.in_flight and (batch := next(todo, None)):
            waiting.add(pool.submit(batch))
        if not waiting:
            break
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            judged = future.result()
            stop = stop or judged.stop
            yield judged.verdicts
    if stop:
        raise stop
