"""Rubrics: what a judge is told, what it is shown, and how its reply is read. Pure text.

Each asks for what the protocol of its benchmark asks for, in raypipe's own words (``rubric_texts``), so
scores are comparable in kind but not digit by digit. All differ from the reference's on purpose:

- question, reference and answer travel as one JSON object, so that an answer cannot leave its field; what
  in an answer speaks to the judge is cut out and flagged (``injection``);
- every call carries a code of its own, which no answer can know, and a reply without it is no verdict;
- the reply is JSON, read strictly; the reference evaluates it as Python, or takes "4.8" for 4;
- a reply that cannot be read is no verdict. It never becomes a score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from raypipe.errors import RequestError, nearest
from raypipe.grading import rubric_texts as texts
from raypipe.grading.injection import Defused, clean, defused
from raypipe.records import fingerprint

BEST_SCORE = 5
CODE = "code"
OPTIONS = "ABCDEFGH"
NO_OPTION = "none"
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


class UnreadableVerdict(ValueError):
    """A judge's reply that is not exactly the verdict that was asked for."""


@dataclass(frozen=True)
class Reading:
    """What a judge decided; what its rubric does not ask for is None.

    ``correct``: right or wrong. ``score``: the mark of the answer, on the rubric's own scale. ``baseline``:
    the mark of the reference answer. ``choice``: the option that an answer means, "" for none of them.
    """

    correct: bool | None = None
    score: float | None = None
    baseline: float | None = None
    choice: str | None = None


@dataclass(frozen=True)
class Subject:
    """What is judged: an answer with its question, reference and, where there is one, the image's context."""

    question: str
    reference: str
    answer: str
    context: str = ""


@dataclass(frozen=True)
class Slot:
    """One value of a reply: its name, what the judge is told of it, and the values it may have."""

    name: str
    says: str
    values: tuple[Any, ...]

    @property
    def schema(self) -> dict[str, Any]:
        kinds = {str: "string", int: "integer", float: "number"}
        return {"type": kinds[type(self.values[0])], "enum": list(self.values)}

    def fits(self, value: Any) -> bool:
        """Whether a reply's value is one of them; true is not 1, and 4.0 is no integer."""
        kind = type(self.values[0])
        kinds = (int, float) if kind is float else (kind,)
        return type(value) in kinds and value in self.values


# Takes the subjects and what of each answer is shown; returns the fields of the user message.
Layout = Callable[[Sequence[Subject], Sequence[str]], dict[str, str]]


@dataclass(frozen=True)
class Rubric:
    """One way to judge open answers.

    Attributes:
        name: how benchmarks refer to it.
        task: what the judge is told to do; a user's own file can replace it.
        layout: how the message to judge is made.
        written: which of its fields the system under test wrote.
        slots: what the reply holds besides the code.
        reading: makes the decision of the reply's values.
        answers: how many answers one verdict is about.
        lines: whether line breaks of an answer are shown; else runs of white space become one blank.
    """

    name: str
    task: str
    layout: Layout
    written: tuple[str, ...]
    slots: tuple[Slot, ...]
    reading: Callable[[Mapping[str, Any]], Reading]
    answers: int = 1
    lines: bool = False

    @cached_property
    def system(self) -> str:
        """All that the judge is told."""
        wanted = "\n".join(f'"{slot.name}": {slot.says}' for slot in self.slots)
        named = " and ".join(f'"{name}"' for name in self.written)
        parts = (self.task.strip(), texts.DATA.format(written=named), texts.REPLY.format(slots=wanted))
        return "\n\n".join(parts)

    @property
    def reminder(self) -> str:
        """What is added to ``system`` when the first reply could not be read."""
        names = ", ".join(f'"{name}"' for name in (CODE, *(slot.name for slot in self.slots)))
        return texts.REMINDER.format(names=names)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the reply; the same for every call, so that an endpoint can keep it."""
        properties = {CODE: {"type": "string"}, **{slot.name: slot.schema for slot in self.slots}}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    @cached_property
    def hash(self) -> str:
        """The fingerprint of all that the judge is told; verdicts by another text are not mixed in."""
        return fingerprint(self.name, self.system, self.reminder, self.schema, self.lines)

    @property
    def label(self) -> str:
        """Name and hash, as a ``Verdict`` carries them."""
        return f"{self.name}@{self.hash}"

    def with_task(self, text: str) -> Rubric:
        """The same with a user's own text; how the reply is written and read stays raypipe's."""
        return replace(self, task=text)

    def tidy(self, answer: str) -> str:
        """An answer without white space that tells nothing, so that it costs no verdict of its own."""
        if self.lines:
            return "\n".join(line.rstrip() for line in answer.strip().splitlines())
        return " ".join(answer.split())

    def content(self, subjects: Sequence[Subject]) -> tuple[dict[str, str], tuple[str, ...]]:
        """What the judge is shown, and the flags of what was cut out of the answers."""
        found = [_shown(subject) for subject in subjects]  # before line breaks are gone
        shown = self.layout(subjects, [self.tidy(one.text) for one in found])
        flags = sorted({flag for one in found for flag in one.flags})
        return {name: clean(text) for name, text in shown.items()}, tuple(flags)

    def read(self, reply: str, code: str) -> Reading:
        """Reads a reply: one JSON object with the call's code, bare or in one code fence.

        Raises:
            UnreadableVerdict: anything else, such as prose around it, other or repeated keys, another
                code, a value that is none of those asked for.
        """
        text = reply.strip()
        if fenced := _FENCE.fullmatch(text):
            text = fenced.group(1)
        try:
            value = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            raise UnreadableVerdict("not one JSON object with each key once") from None
        names = {CODE, *(slot.name for slot in self.slots)}
        if not isinstance(value, dict) or set(value) != names:
            raise UnreadableVerdict(f"not an object with the keys {', '.join(sorted(names))}")
        if value[CODE] != code:
            raise UnreadableVerdict("not with the code of this call")
        for slot in self.slots:
            if not slot.fits(value[slot.name]):
                raise UnreadableVerdict(f"{slot.name} has a value that was not asked for")
        return self.reading(value)


def message(shown: Mapping[str, str], code: str) -> str:
    """The user message: one JSON object, whatever characters the texts are made of, and the code last."""
    return json.dumps({**shown, CODE: code}, ensure_ascii=False)


def rubric_named(name: str) -> Rubric:
    """The rubric of that name.

    Raises:
        RequestError: there is none; names the nearest.
    """
    if name not in RUBRICS:
        raise RequestError(f"no rubric is called '{name}'", nearest(name, RUBRICS, shown=20))
    return RUBRICS[name]


def _shown(subject: Subject) -> Defused:
    """An answer that says what the reference says is right, be it a sign's text or a game's score."""
    said, wanted = (
        " ".join(text.casefold().split()).rstrip(".") for text in (subject.answer, subject.reference)
    )
    return Defused(clean(subject.answer), ()) if said and said == wanted else defused(subject.answer)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("repeated key")
    return dict(pairs)


def _against_reference(subjects: Sequence[Subject], answers: Sequence[str]) -> dict[str, str]:
    (one,), (answer,) = subjects, answers
    return {"question": one.question, "correct_answer": one.reference, "predicted_answer": answer}


def _two_answers(subjects: Sequence[Subject], answers: Sequence[str]) -> dict[str, str]:
    first, second = subjects
    return {
        "question_1": first.question,
        "question_2": second.question,
        "correct_answer": first.reference,
        "predicted_answer_1": answers[0],
        "predicted_answer_2": answers[1],
    }


def _side_by_side(subjects: Sequence[Subject], answers: Sequence[str]) -> dict[str, str]:
    """The reference answer is always the first, as in the reference's reviews."""
    (one,), (answer,) = subjects, answers
    return {"context": one.context, "question": one.question, "answer_1": one.reference, "answer_2": answer}


def _options(subjects: Sequence[Subject], answers: Sequence[str]) -> dict[str, str]:
    (one,), (answer,) = subjects, answers
    return {"question": one.question, "predicted_answer": answer}


def _yes_and_score(value: Mapping[str, Any]) -> Reading:
    return Reading(correct=value["verdict"] == "yes", score=float(value["score"]))


def _score(value: Mapping[str, Any]) -> Reading:
    return Reading(score=float(value["score"]))


def _marks(value: Mapping[str, Any]) -> Reading:
    return Reading(baseline=float(value["mark_1"]), score=float(value["mark_2"]))


def _choice(value: Mapping[str, Any]) -> Reading:
    return Reading(choice="" if value["choice"] == NO_OPTION else value["choice"])


_FIVE = Slot("score", texts.SCORE_SAYS, tuple(range(BEST_SCORE + 1)))
_HALVES = tuple(mark / 2 for mark in range(2, 21))
_TENTHS = tuple(mark / 10 for mark in range(11))


def _aspect(name: str, text: str) -> Rubric:
    if name == "consistency":
        written = ("predicted_answer_1", "predicted_answer_2")
        return Rubric(f"video_chatgpt/{name}", text, _two_answers, written, (_FIVE,), _score, 2, True)
    label = f"video_chatgpt/{name}"
    return Rubric(label, text, _against_reference, ("predicted_answer",), (_FIVE,), _score, lines=True)


_ALL = (
    Rubric(
        name="video_qa",
        task=texts.VIDEO_QA,
        layout=_against_reference,
        written=("predicted_answer",),
        slots=(Slot("verdict", '"yes" or "no": whether it matches', ("yes", "no")), _FIVE),
        reading=_yes_and_score,
    ),
    Rubric(
        name="llava_bench",
        task=texts.LLAVA_BENCH,
        layout=_side_by_side,
        written=("answer_1", "answer_2"),
        slots=(
            Slot("mark_1", "the mark of answer_1, from 1 to 10 in steps of 0.5", _HALVES),
            Slot("mark_2", "the mark of answer_2, from 1 to 10 in steps of 0.5", _HALVES),
        ),
        reading=_marks,
        lines=True,
    ),
    Rubric(
        name="mm_vet",
        task=texts.MM_VET,
        layout=_against_reference,
        written=("predicted_answer",),
        slots=(Slot("score", "0.0, 0.1, 0.2, ... or 1.0", _TENTHS),),
        reading=_score,
        lines=True,
    ),
    Rubric(
        name="option",
        task=texts.OPTION,
        layout=_options,
        written=("predicted_answer",),
        slots=(Slot("choice", f'the letter of the option, or "{NO_OPTION}"', (*OPTIONS, NO_OPTION)),),
        reading=_choice,
    ),
    *(_aspect(name, text) for name, text in texts.ASPECTS.items()),
)
RUBRICS: dict[str, Rubric] = {rubric.name: rubric for rubric in _ALL}
