"""What the contract of benchmarks is checked on: made-up data of each, with right and wrong answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raypipe.grading.metrics import Graded, graded_from_verdict
from raypipe.records import Outcome, Prediction, Question, Verdict


def predicted(question: Question, text: str, outcome: Outcome = Outcome.OK) -> Prediction:
    return Prediction.about(question, "key", text, outcome, new_tokens=1)


def by_verdict(question: Question, right: bool) -> Graded:
    """A judged answer to a video question."""
    outcome, score = Outcome.OK, 5.0 * right
    verdict = Verdict(
        "key", question.benchmark, question.id, "judge", "judge-1", "r", outcome, right, score, "", 1, 1
    )
    return graded_from_verdict(predicted(question, "a reply"), verdict)


@dataclass(frozen=True)
class Case:
    """One benchmark, or one split of it.

    Attributes:
        write: writes its made-up files below an eval root; also given the benchmark's name.
        prompt, reference: of its first question, to the letter.
        wrong: a reply to the first question that is wrong.
        right: the right reply to a question; None: its reference.
        judged: a right and a wrong judged answer, where no rule grades.
        full, nothing: the primary metric when all is right and when all is wrong.
    """

    write: Callable[[Path, str], None]
    prompt: str
    reference: str
    wrong: str = ""
    right: Callable[[Question], str] | None = None
    judged: Callable[[Question, bool], Graded] = by_verdict
    full: float = 100.0
    nothing: float = 0.0
