"""Judges the predictions of a run: asks what the ledger cannot answer, and commits as it goes.

The ledger is the folder ``verdicts`` of the run. Every verdict goes into it, the failed and unreadable
ones too, so that a report can count them; but only a verdict with outcome OK is done. The next run
asks the others again, and of several verdicts on a question the one with outcome OK counts. Verdicts
by another judge, model, temperature or rubric have other keys and are never taken for this judge's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raypipe.judge.asker import usd_of
from raypipe.judge.case import RubricOf
from raypipe.judge.stream import JudgeStream
from raypipe.records import Prediction, Verdict
from raypipe.settings import JudgeSettings, Price
from raypipe.store.files import Store
from raypipe.store.run import Progress


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
    (medium bad, generation failed) and benchmarks without a rubric are not judged. Where nothing has to be
    asked, no key is needed.

    Args:
        predictions: at most one per question and model under test.

    See ``JudgeStream`` for the other arguments.

    Returns:
        One verdict per question and rubric, in the order of the predictions; see the outcome of each.

    Raises:
        RequestError: no such rubric, no key, or a bad address.
        ServiceError: the endpoint refuses the run, or the money ceiling is reached. What was judged is
            committed, so a second call continues.
    """
    stream = JudgeStream(
        run_store, rubric_of, settings, use_ray=use_ray, known=known, progress=progress, at_once=False
    )
    with stream:
        stream.add(predictions)
        return stream.finish()


def cost_usd(verdicts: Iterable[Verdict], price: Price) -> float:
    """What the judge's replies cost, in US dollars; a verdict that questions share was paid once.

    Requests that ended without a reply are not in it: the endpoint reports no tokens for them.
    """
    paid = {v.key: v for v in verdicts}.values()
    return usd_of(sum(v.prompt_tokens for v in paid), sum(v.reply_tokens for v in paid), price)
