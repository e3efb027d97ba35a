"""Video-ChatGPT's generative benchmark: five aspects of long answers about videos, each judged from 0 to 5.

``generic_qa.json`` serves correctness, detail and context, ``temporal_qa.json`` temporal order, and
``consistency_qa.json``, whose records have two questions and one answer, consistency. Each question is
asked once: where the reference asks all of generic three times, one reply is judged for three aspects.
``row_id`` is ``<set>/<video_name>_<k>``, k counting the records of a video from 0, as in the judge's own key;
the two questions of a consistency record end in ``/1`` and ``/2``. A graded question carries the mark of
each aspect as a tag (``correctness=4``), and both questions of a consistency record carry its mark.

Scorer: Video-ChatGPT ``quantitative_evaluation`` (Video-LLaVA ``llava/eval/video/eval_benchmark_*.py``):
for each aspect the mean of the scores, cut to whole numbers. ``mean``, over the five aspects, is unknown
until each of them has a verdict.

Where raypipe differs: both questions of a consistency record are read (Video-LLaVA's evaluator reads Q1
twice); verdicts are joined by video, question and answer, as k shifts in the reference when its runner
drops a record; an unreadable score is counted and left out, while the reference stops there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raypipe.benchmark import Benchmark, Stored, make_question, ungraded
from raypipe.errors import RequestError
from raypipe.eval_root import Row, field, medium_path, read_json_rows
from raypipe.grading.answers import judged_score
from raypipe.grading.metrics import Graded, GradedTable, Metric, mean, ratio
from raypipe.grading.statistics import Floats
from raypipe.records import MediumKind, MediumRef, Outcome, Question
from raypipe.video_qa import SCORE_RANGE, differing, find_video, stored_verdicts, verdict_parts

NAME = "video_chatgpt"
FOLDER = "Video_5_Benchmark"
VIDEOS = f"{FOLDER}/Test_Videos"
FILES = {name: f"{FOLDER}/Benchmarking_QA/{name}_qa.json" for name in ("generic", "temporal", "consistency")}
ASPECTS = {
    "correctness": "generic",
    "detail": "generic",
    "context": "generic",
    "temporal": "temporal",
    "consistency": "consistency",
}
UNREADABLE = "unreadable"


def read_questions(eval_root: Path) -> list[Question]:
    """The questions of the three sets, which are their categories.

    Raises:
        RequestError: a damaged row, or a video's name that leads out of its folder.
    """
    media: dict[str, MediumRef] = {}
    questions = []
    for category, name in FILES.items():
        path = eval_root / name
        times: Counter[str] = Counter()
        for number, row in enumerate(read_json_rows(path), 1):
            where = f"row {number}"
            video, answer = field(row, "video_name", path, where), field(row, "A", path, where)
            if video not in media:
                media[video] = find_video(eval_root, medium_path(VIDEOS, video, path, where))
            row_id = f"{category}/{video}_{times[video]}"
            times[video] += 1
            asked = {"": "Q"} if category != "consistency" else {"/1": "Q1", "/2": "Q2"}
            for part, key in asked.items():
                text = field(row, key, path, where)
                questions.append(
                    make_question(NAME, row_id + part, media[video], text, text, answer, category)
                )
    return questions


@dataclass(frozen=True)
class _Record:
    """What is judged at once: a question, or the two of a consistency record."""

    questions: tuple[Question, ...]

    def fits(self, judged: Row) -> bool:
        """Whether the verdict was given on these questions and this answer; what it does not state fits."""
        first, *second = (question.question for question in self.questions)
        answer = self.questions[0].reference
        if not second:
            return differing(judged, q=first, a=answer) is None
        # Video-LLaVA's evaluator states Q1 for both.
        as_asked = differing(judged, q1=first, q2=second[0], a=answer) is None
        return as_asked or differing(judged, q1=first, q2=first, a=answer) is None


class _Records:
    """Finds what a stored verdict was given on."""

    def __init__(self, questions: Sequence[Question]) -> None:
        parts: dict[tuple[str, str], list[Question]] = {}
        for question in questions:
            key = question.row_id.split("/", 1)[1]
            if question.category == "consistency":
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
                f"take the verdicts and {FILES[category]} from the same release, or judge again",
            )
        return None


def aspect_of(path: Path) -> str:
    """The aspect that stored verdicts are about.

    It is in the name of the file or folder, or else in that of the folder around it: ``correctness_qa.json``,
    ``gpt3/detail``, ``contextual_eval/results.json``.

    Raises:
        RequestError: none is named, or several are.
    """
    for name in (path.name.lower(), path.resolve().parent.name.lower()):
        named = [aspect for aspect in ASPECTS if aspect in name]
        if len(named) == 1:
            return named[0]
        if named:
            break
    raise RequestError(
        f"{path}: the name does not say which aspect was judged",
        f"name the file or its folder after one of {', '.join(ASPECTS)}",
    )


def read_verdicts(questions: Sequence[Question], files: Sequence[Path]) -> Stored:
    """Verdicts as the reference's judge stores them: ``{key: [{"score": 4}, {"q", "a", "pred"}]}``.

    Args:
        files: of one run of the judge: combined files, or folders with one ``<key>.json`` a record; what they
            judge is in their names (see ``aspect_of``).

    Raises:
        RequestError: a damaged file, one without an aspect, or a verdict on something else than its key says.
    """
    records = _Records(questions)
    marks: dict[str, dict[str, str]] = {}
    extra, duplicate = 0, 0
    for source in files:
        aspect = aspect_of(source)
        for path, key, stored in stored_verdicts([source]):
            verdict, judged = verdict_parts(stored)
            record = records.find(ASPECTS[aspect], key, judged, path)
            if record is None:
                extra += 1
                continue
            score = judged_score(verdict.get("score"))
            duplicate += aspect in marks.get(record.questions[0].id, {})
            for question in record.questions:
                marks.setdefault(question.id, {})[aspect] = UNREADABLE if score is None else str(score)
    run = {
        question.id: graded(question, marks[question.id]) for question in questions if question.id in marks
    }
    # A question has up to three verdicts and a consistency verdict two questions: rows count questions.
    return Stored([run], len(run) + duplicate + extra, extra)


def graded(question: Question, marks: dict[str, str]) -> Graded:
    """A question with the marks of its aspects, ``score`` their mean.

    An unreadable one makes the outcome so; the other marks count all the same.
    """
    known = [float(mark) for mark in marks.values() if mark != UNREADABLE]
    outcome = Outcome.OK if len(known) == len(marks) else Outcome.JUDGE_UNREADABLE
    score = sum(known) / len(known) if known else None
    value = None if score is None else score / SCORE_RANGE[1]
    tags = (*question.tags, *(f"{aspect}={mark}" for aspect, mark in marks.items()))
    return replace(ungraded(question, outcome), value=value, score=score, tags=tags)


def mean_of_aspects(counts: Floats) -> Floats:
    """The mean of the aspects' means, of counts (score, 1) for each, side by side."""
    each = np.stack([ratio(part) for part in np.split(counts, len(ASPECTS), axis=-1)])
    return np.asarray(each.mean(axis=0), dtype=np.float64)


def measure(table: GradedTable) -> list[Metric]:
    """``mean`` and the mean score of each aspect, 0..5."""
    metrics = []
    for aspect, category in ASPECTS.items():
        scores = np.full(len(table), np.nan)
        for mark, mask in table.facet(aspect).items():
            if mark != UNREADABLE:
                scores[mask] = float(mark)
        metrics.append(mean(aspect, scores, table.category == category, SCORE_RANGE))
    answered = np.logical_or.reduce([metric.answered for metric in metrics])
    if not all(metric.answered.any() for metric in metrics):
        answered = np.zeros_like(answered)
    counts = np.concatenate([metric.counts for metric in metrics], axis=1)
    return [Metric("mean", table.everything, answered, counts, mean_of_aspects, SCORE_RANGE), *metrics]


BENCHMARK = Benchmark(
    name=NAME,
    title="Video-ChatGPT generative aspects",
    media=MediumKind.VIDEO,
    folder=FOLDER,
    files=tuple(FILES.values()),
    read=read_questions,
    measure=measure,
    primary="mean",
    verdicts=read_verdicts,
    source="Questions (Benchmarking_QA) and videos (Test_Videos): Video-ChatGPT, "
    f"quantitative_evaluation/README.md; put both folders into {FOLDER} of the eval root.",
    max_new_tokens=1024,
    reference_template="llava_v1",
)
