"""What a benchmark asks a judge of an answer, and how verdicts become grades. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from raypipe.grading.metrics import ANSWERED, Graded, ungraded
from raypipe.records import Outcome, Prediction, Verdict

BEST_MARK = 10.0


@dataclass(frozen=True)
class Ask:
    """One verdict that is wanted on an answer.

    ``group`` and ``place`` matter to rubrics that judge several answers together: those of one group, in
    the order of their places.
    """

    rubric: str
    group: str = ""
    place: int = 0


@dataclass(frozen=True)
class Judging:
    """How a benchmark is judged where one verdict an answer is not all.

    Attributes:
        rubrics: the names of all rubrics that it may ask for.
        asks: the verdicts that are wanted on an answer; none where it needs no judge.
        graded: a question with what its verdicts are worth; None of them may be there.
    """

    rubrics: tuple[str, ...]
    asks: Callable[[Prediction], Sequence[Ask]]
    graded: Callable[[Prediction, Sequence[Verdict]], Graded]


Asks = str | Judging  # the name of the one rubric, or more


def rubrics_of(asks: Asks) -> tuple[str, ...]:
    return (asks,) if isinstance(asks, str) else asks.rubrics


def asks_of(asks: Asks, prediction: Prediction) -> Sequence[Ask]:
    """The verdicts that are wanted on an answer."""
    return [Ask(asks)] if isinstance(asks, str) else asks.asks(prediction)


def by_question(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Verdicts by the question they are about, in their order."""
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.question_id, []).append(verdict)
    return found


def rubric_name(verdict: Verdict) -> str:
    return verdict.rubric.partition("@")[0]


def graded_by(asks: Asks, prediction: Prediction, verdicts: Sequence[Verdict]) -> Graded:
    """A question with what its verdicts are worth."""
    if isinstance(asks, str):
        return one_verdict(prediction, verdicts)
    return asks.graded(prediction, verdicts)


def one_verdict(prediction: Prediction, verdicts: Sequence[Verdict]) -> Graded:
    """A judged answer. Unjudged or unreadably judged, it has no value: unscored, and not wrong.

    ``value`` is 1 or 0 where the judge says right or wrong, and the mark's share of the best mark where it
    marks on a scale of its own: out of 10 beside a reference, out of 1 by elements.
    """
    if prediction.outcome not in ANSWERED:
        return ungraded(prediction, prediction.outcome)
    if not verdicts:
        return ungraded(prediction, Outcome.JUDGE_FAILED)
    verdict = verdicts[-1]
    if verdict.outcome not in ANSWERED:
        return ungraded(prediction, verdict.outcome)
    if verdict.correct is not None:
        value: float | None = float(verdict.correct)
    elif verdict.score is None:
        value = None
    else:
        value = verdict.score / BEST_MARK if verdict.baseline is not None else verdict.score
    graded = ungraded(prediction, prediction.outcome)
    return replace(graded, value=value, score=verdict.score, baseline=verdict.baseline)
