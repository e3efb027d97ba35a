"""Verdicts on the aspects of Video-ChatGPT's generative benchmark: ``{key: [{"score": 4}, judged]}``.

``judged`` is ``{"q", "a", "pred"}``. A key is ``<video_name>_<k>``, k counting the records of a video from 0.
As k shifts in the reference when its runner drops a record, a verdict that states its question is joined by
video, question and answer. Which aspect a file is about stands in its name alone. Verdicts on consistency
are about two questions at once, of which Video-LLaVA's evaluator states the first twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raypipe.benchmark import Stored
from raypipe.errors import RequestError
from raypipe.eval_root import Row
from raypipe.grading.answers import judged_score
from raypipe.grading.aspects import graded_by_aspects
from raypipe.records import Question
from raypipe.stored_verdicts.by_question import differing, stored_verdicts, verdict_parts


def read_aspects(
    questions: Sequence[Question], files: Sequence[Path], aspects: Mapping[str, str], pairs: str
) -> Stored:
    """Verdicts of one run of the judge.

    Args:
        questions: their ``row_id`` is ``<category>/<key>``, and has ``/1`` or ``/2`` behind it in a pair.
        files: combined files, or folders with one ``<key>.json`` a record; see ``aspect_of``.
        aspects: the category of the questions that each aspect is judged on.
        pairs: the category in which two questions are judged at once.

    Raises:
        RequestError: a damaged file, one without an aspect, or a verdict on something else than its key says.
    """
    records = _Records(questions, pairs)
    marks: dict[str, dict[str, float | None]] = {}
    extra, duplicate = 0, 0
    for source in files:
        aspect = aspect_of(source, list(aspects))
        for path, key, stored in stored_verdicts([source]):
            verdict, judged = verdict_parts(stored)
            record = records.find(aspects[aspect], key, judged, path)
            if record is None:
                extra += 1
                continue
            duplicate += aspect in marks.get(record.questions[0].id, {})
            for question in record.questions:
                marks.setdefault(question.id, {})[aspect] = judged_score(verdict.get("score"))
    run = {q.id: graded_by_aspects(q, marks[q.id]) for q in questions if q.id in marks}
    # A question has up to three verdicts and a consistency verdict two questions: rows count questions.
    return Stored([run], len(run) + duplicate + extra, extra)


def aspect_of(path: Path, aspects: Sequence[str]) -> str:
    """The aspect that stored verdicts are about.

    It is in the name of the file or folder, or else in that of the folder around it: ``correctness_qa.json``,
    ``gpt3/detail``, ``contextual_eval/results.json``.

    Raises:
        RequestError: none is named, or several are.
    """
    for name in (path.name.lower(), path.resolve().parent.name.lower()):
        named = [aspect for aspect in aspects if aspect in name]
        if len(named) == 1:
            return named[0]
        if named:
            break
    raise RequestError(
        f"{path}: the name does not say which aspect was judged",
        f"name the file or its folder after one of {', '.join(aspects)}",
    )


@dataclass(frozen=True)
class _Record:
    """What is judged at once: a question, or the two of a pair."""

    questions: tuple[Question, ...]

    def fits(self, judged: Row) -> bool:
        """Whether the verdict was given on these questions and this answer; what it does not state fits."""
        first, *second = (question.question for question in self.questions)
        answer = self.questions[0].reference
        if not second:
            return differing(judged, q=first, a=answer) is None
        as_asked = differing(judged, q1=first, q2=second[0], a=answer) is None
        return as_asked or differing(judged, q1=first, q2=first, a=answer) is None


class _Records:
    """Finds what a stored verdict was given on."""

    def __init__(self, questions: Sequence[Question], pairs: str) -> None:
        parts: dict[tuple[str, str], list[Question]] = {}
        for question in questions:
            key = question.row_id.split("/", 1)[1]
            if question.category == pairs:
                key = key.rpartition("/")[0]
            parts.setdefault((question.category, key), []).append(question)
        self._by_key = {name: _Record(tuple(several)) for name, several in parts.items()}
        self._by_video: dict[tuple[str, str], list[_Record]] = {}
        for (category, key), record in self._by_key.items():
            self._by_video.setdefault((category, key.rpartition("_")[0]), []).append(record)

    def find(self, category: str, key: str, judged: Row, path: Path) -> _Record | None:
        by_key = self._by_key.get((category, key))
        if by_key is not None and by_key.fits(judged):
            return by_key
        stated = {"q", "q1"} & judged.keys()
        of_video = self._by_video.get((category, key.rpartition("_")[0]), []) if stated else []
        fitting = [record for record in of_video if record.fits(judged)]
        if len(fitting) == 1:
            return fitting[0]
        if by_key is not None:
            raise RequestError(
                f"{path}: the verdict on {key!r} was given on another question or answer than the "
                f"benchmark's, {by_key.questions[0].question!r}",
                f"take the verdicts and the {category} questions from the same release, or judge again",
            )
        return None
