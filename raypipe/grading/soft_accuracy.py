"""Soft accuracy against ten human answers, each annotator left out in turn.

An answer is worth min(1, matches / 3) against nine of the ten, and the mean over the ten ways to leave
one out: with 0, 1, 2, 3 and more annotators who gave it that is 0, 0.3, 0.6, 0.9 and 1. A question's
reference is the JSON text of the ten answers as the benchmark states them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from raypipe.errors import RequestError
from raypipe.grading.rules import Mark
from raypipe.grading.vqa_answers import normalised, on_one_line, processed

ANNOTATORS = 10
ENOUGH = 3  # so many who agree make an answer right

_processed = lru_cache(maxsize=1 << 16)(processed)  # people repeat each other
_normalised = lru_cache(maxsize=1 << 16)(normalised)


def ten_answers(answers: Any, where: str) -> str:
    """A reference from an annotation: ten texts, or ten objects with an ``answer``.

    Args:
        where: file and row, for the message.

    Raises:
        RequestError: there are not ten of them, or one is not text.
    """
    rows = answers if isinstance(answers, list) else []
    texts = [row.get("answer") if isinstance(row, dict) else row for row in rows]
    if len(texts) != ANNOTATORS or not all(isinstance(text, str) for text in texts):
        state = f"{len(texts)} answers" if len(texts) != ANNOTATORS else "an answer that is not text"
        raise RequestError(f"{where}: {state}, and {ANNOTATORS} texts are needed", "fetch the file again")
    return json.dumps(texts, ensure_ascii=False)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The worth of a prediction in 0..1; answers and prediction are compared letter by letter."""
    matches = sum(answer == prediction for answer in answers)
    left_out = matches * min(ENOUGH, matches - 1) if matches else 0
    others = (len(answers) - matches) * min(ENOUGH, matches)
    return (left_out + others) / (ENOUGH * len(answers))


def processed_soft_match(reference: str, reply: str) -> Mark:
    """TextVQA's rule (LLaVA ``m4c_evaluator.py``): reply and answers are processed."""
    parsed = processed(reply)
    return Mark(soft_accuracy(parsed, [_processed(answer) for answer in json.loads(reference)]), parsed)


def official_soft_match(reference: str, prediction: str) -> Mark:
    """The official VQA evaluation's rule for an uploaded prediction.

    Nothing is normalised where the ten answers are equal, so that "Yes" is then no match for "yes",
    nor "2" for "two".
    """
    answers = [on_one_line(answer) for answer in json.loads(reference)]
    parsed = on_one_line(prediction)
    if len(set(answers)) > 1:
        answers = [_normalised(answer) for answer in answers]
        parsed = normalised(parsed)
    return Mark(soft_accuracy(parsed, answers), parsed)


def uploaded_soft_match(reference: str, reply: str) -> Mark:
    """What the VQAv2 server gives a reply: it is processed for the upload, and the official rule follows."""
    return official_soft_match(reference, processed(reply))
