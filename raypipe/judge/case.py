"""What one verdict is about: an answer, or several that are judged together, and the rubric for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from raypipe.grading.judging import Asks, asks_of
from raypipe.grading.metrics import ANSWERED
from raypipe.grading.rubrics import Rubric, Subject, rubric_named
from raypipe.records import Outcome, Prediction, Verdict, fingerprint
from raypipe.settings import JudgeSettings

RubricOf = Callable[[str], Asks | None]  # what a benchmark asks a judge, by its name; None: nothing


@dataclass(frozen=True)
class Case:
    """Answers to judge together and the rubric to judge them by; ``key`` names the content and the judge."""

    key: str
    rubric: Rubric
    predictions: tuple[Prediction, ...]

    @property
    def question_ids(self) -> list[str]:
        return list(dict.fromkeys(p.question_id for p in self.predictions))

    @property
    def subjects(self) -> list[Subject]:
        return [subject_of(p) for p in self.predictions]

    def verdict(self, settings: JudgeSettings, outcome: Outcome, reply: str) -> Verdict:
        """A verdict on it that has no decision yet, for the first of its questions."""
        first = self.predictions[0]
        return Verdict(
            key=self.key,
            benchmark=first.benchmark,
            question_id=first.question_id,
            judge=settings.name,
            judge_model="",
            rubric=self.rubric.label,
            outcome=outcome,
            correct=None,
            score=None,
            reply=reply,
            prompt_tokens=0,
            reply_tokens=0,
        )


def subject_of(prediction: Prediction) -> Subject:
    """What of a prediction is judged."""
    return Subject(prediction.question, prediction.reference, prediction.text, prediction.context)


def verdict_key(predictions: Iterable[Prediction], rubric: Rubric, settings: JudgeSettings) -> str:
    """Names what the judge is shown, who it is and how it is asked, and nothing else.

    An answer counts as it is shown, after what speaks to the judge was cut out: two answers share a verdict
    where the judge could not tell them apart. The model under test is not in it: another checkpoint with the
    same answer has the same key. The endpoint's address is not either: the judge's name and its model tell
    judges apart.
    """
    listed = list(predictions)
    shown, _ = rubric.content([subject_of(p) for p in listed])
    asked = [[p.benchmark, p.question, p.reference, p.context] for p in listed]
    return fingerprint(asked, shown, rubric.label, settings.name, settings.model, settings.temperature)


@dataclass
class Cases:
    """Makes cases of predictions as they come; answers that are judged together wait for each other."""

    rubric_of: RubricOf
    rubrics: Mapping[str, Rubric]
    settings: JudgeSettings
    _waiting: dict[tuple[str, str, str], dict[int, Prediction]] = field(default_factory=dict)

    def of(self, predictions: Iterable[Prediction]) -> Iterator[Case]:
        """The cases that these make, with those that came before.

        Raises:
            RequestError: no such rubric.
        """
        for prediction in predictions:
            asks = self.rubric_of(prediction.benchmark)
            if asks is None or prediction.outcome not in ANSWERED:
                continue
            for ask in asks_of(asks, prediction):
                rubric = self.rubrics.get(ask.rubric) or rubric_named(ask.rubric)
                if rubric.answers == 1:
                    yield self._case((prediction,), rubric)
                    continue
                name = (prediction.benchmark, ask.rubric, ask.group)
                group = self._waiting.setdefault(name, {})
                group[ask.place] = prediction
                if len(group) == rubric.answers:
                    yield self._case(tuple(group[place] for place in sorted(group)), rubric)
                    del self._waiting[name]

    def _case(self, predictions: tuple[Prediction, ...], rubric: Rubric) -> Case:
        return Case(verdict_key(predictions, rubric, self.settings), rubric, predictions)


def shared(verdict: Verdict, question_ids: Iterable[str]) -> list[Verdict]:
    """One row of a verdict for each question it is about."""
    return [replace(verdict, question_id=question_id) for question_id in question_ids]
