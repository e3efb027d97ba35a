"""What a benchmark asks a judge of an answer, and what answers are worth by their verdicts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from raypipe.grading.answers import UNREADABLE
from raypipe.grading.aspects import graded_by_aspects
from raypipe.grading.metrics import ANSWERED, Graded, graded_from_verdict, outcome_of, ungraded
from raypipe.grading.reviews import BEST_MARK
from raypipe.records import Outcome, Prediction, Question, Verdict

Item = Prediction | Question


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
class JudgedBy:
    """What is asked where it is not one verdict by one rubric on each answer.

    Attributes:
        rubrics: the names of all rubrics that may be asked for.
        asks: the verdicts that are wanted on an answer; none where it needs no judge.
    """

    rubrics: tuple[str, ...]
    asks: Callable[[Prediction], Sequence[Ask]]


Asks = str | JudgedBy  # the name of the one rubric, or more
# Takes what was asked and the verdicts on the answer, one for each rubric at most.
Judged = Callable[[Item, Sequence[Verdict]], Graded]


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


def outcome_with(prediction: Prediction, verdicts: Sequence[Verdict]) -> Outcome:
    """How the work on a question ended: with the first verdict that is none, else with the answer."""
    lost = (v.outcome for v in verdicts if v.outcome is not Outcome.OK)
    return next(lost, prediction.outcome)


def by_verdict(item: Item, verdicts: Sequence[Verdict]) -> Graded:
    """Right or wrong, with the judge's score."""
    return graded_from_verdict(item, verdicts[-1] if verdicts else None)


def by_share(item: Item, verdicts: Sequence[Verdict]) -> Graded:
    """The share, 0 to 1, of what was wanted."""
    graded = by_verdict(item, verdicts)
    return replace(graded, value=graded.score, score=None)


def by_marks(item: Item, verdicts: Sequence[Verdict]) -> Graded:
    """The marks of the answer and of the reference beside it, 1 to 10."""
    graded = by_verdict(item, verdicts)
    if graded.score is None:
        return graded
    return replace(graded, value=graded.score / BEST_MARK, baseline=verdicts[-1].baseline)


def by_choice(item: Item, verdicts: Sequence[Verdict]) -> Graded:
    """Right where the option that the judge found in the answer is the right one."""
    graded = by_verdict(item, verdicts)
    choice = verdicts[-1].choice if verdicts else None
    if graded.outcome not in ANSWERED or choice is None:
        return graded
    return replace(graded, value=float(choice == item.reference), parsed=choice or UNREADABLE)


def by_aspects(item: Item, verdicts: Sequence[Verdict], aspects: Mapping[str, str]) -> Graded:
    """The score of each aspect, 0 to 5; one without a verdict has none.

    Args:
        aspects: the category of the questions that each aspect is judged on.
    """
    asked = outcome_of(item)
    if asked not in ANSWERED:
        return ungraded(item, asked)
    found = {v.rubric.partition("@")[0].rpartition("/")[2]: v for v in verdicts}
    wanted = [aspect for aspect, category in aspects.items() if category == item.category]
    marks = {a: found[a].score if a in found and found[a].outcome in ANSWERED else None for a in wanted}
    lost = [found[a].outcome if a in found else Outcome.JUDGE_FAILED for a in wanted if marks[a] is None]
    return replace(graded_by_aspects(item, marks), outcome=lost[0] if lost else asked)


def where_known(rubric: str) -> JudgedBy:
    """A verdict on each answer to a question whose reference is known."""
    return JudgedBy((rubric,), lambda prediction: [Ask(rubric)] if prediction.reference else [])


def asks_for_aspects(name: str, aspects: Mapping[str, str], pairs: str) -> JudgedBy:
    """A verdict for each aspect of a question's category.

    Args:
        name: what the rubrics' names begin with.
        aspects: see ``by_aspects``.
        pairs: the category of which two questions, whose ``row_id`` ends in ``/1`` and ``/2``, are judged
            together.
    """

    def asks(prediction: Prediction) -> list[Ask]:
        wanted = [f"{name}/{a}" for a, category in aspects.items() if category == prediction.category]
        if prediction.category != pairs:
            return [Ask(rubric) for rubric in wanted]
        group, _, place = prediction.row_id.rpartition("/")
        return [Ask(rubric, group, int(place)) for rubric in wanted]

    return JudgedBy(tuple(f"{name}/{aspect}" for aspect in aspects), asks)
