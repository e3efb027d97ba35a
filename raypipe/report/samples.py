"""Which questions a report shows in full, and the frames the model saw of them.

The choice depends on the questions' ids and results alone, never on the order of rows: the same runs
always show the same samples.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from raypipe.grading.metrics import Graded
from raypipe.grading.rubrics import BEST_SCORE
from raypipe.records import Prediction, Verdict, fingerprint
from raypipe.report.collect import EvaluationRun, read_thumbs

SAMPLES_PER_BENCHMARK = 24
SAMPLES_IN_ALL = 160
TEXT_CHARACTERS = 600
STRIP_BYTES_IN_ALL = 2_400_000  # of encoded frames; a report stays well under 5 MB
FRAMES_PER_STRIP = 16

SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"RIFF": "image/webp"}

Strips = dict[tuple[str, str], list[dict[str, Any]]]  # (benchmark, medium) -> what each evaluation saw


def mark_of(graded: Graded | None) -> str:
    """How one answer counts: right, wrong, partial, or missing. A missing one is never wrong.

    An answer that has a judge's score (0 to 5) and no value is right at 5, wrong at 0, partial between.
    """
    worth = None if graded is None else worth_of(graded)
    if worth is None:
        return "missing"
    return "right" if worth >= 1.0 else "wrong" if worth <= 0.0 else "partial"


def worth_of(graded: Graded) -> float | None:
    """What one answer is worth, 0 to 1: its value, else the judge's score over the best score."""
    if graded.value is not None:
        return float(graded.value)
    return None if graded.score is None else float(graded.score) / BEST_SCORE


def group_of(marks: Sequence[str]) -> str:
    """The group of a sample: by the marks of its answers, before and after.

    >>> group_of(["wrong", "right"]), group_of(["right", "right"]), group_of(["wrong", "missing"])
    ('gained', 'right', 'missing')
    """
    if "missing" in marks:
        return "missing"
    first, last = marks[0], marks[-1]
    if first == last:
        return last
    order = ("wrong", "partial", "right")
    return "gained" if order.index(last) > order.index(first) else "lost"


def sample_cap(benchmarks: int) -> int:
    """How many samples of each benchmark are shown when so many benchmarks share the page."""
    return max(4, min(SAMPLES_PER_BENCHMARK, SAMPLES_IN_ALL // max(1, benchmarks)))


def choose(groups: Mapping[str, str], media: Mapping[str, str], cap: int) -> list[str]:
    """Picks question ids: an even mix of the groups, different media first, in an order made from ids.

    Args:
        groups: the group of each question id.
        media: the medium of each question id.
        cap: how many to pick at most.
    """
    seen: Counter[str] = Counter()
    ranked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for question_id in sorted(groups, key=fingerprint):
        medium = media.get(question_id, "")
        ranked[groups[question_id]].append((seen[medium], question_id))
        seen[medium] += 1
    columns = [sorted(ranked[g], key=lambda pair: pair[0]) for g in sorted(ranked)]
    rounds = zip_longest(*columns)
    return [pair[1] for one_round in rounds for pair in one_round if pair is not None][:cap]


def sample_entries(
    runs: Sequence[EvaluationRun],
    benchmark: str,
    graded: Mapping[str, Mapping[str, Graded]],
    baseline: str | None,
    cap: int,
) -> list[dict[str, Any]]:
    """The samples of one benchmark as the report holds them, with every evaluation's answer.

    A sample is gained or lost by its marks in the baseline (else the first) and in the next evaluation.
    """
    asked = {r.label: {p.question_id: p for p in r.predictions.get(benchmark, [])} for r in runs}
    holders = [r for r in runs if asked[r.label]]
    every: dict[str, Prediction] = {}
    for run in reversed(holders):
        every.update(asked[run.label])
    compared = sorted((r.label for r in holders), key=lambda label: label != baseline)[:2]
    groups = {i: group_of([mark_of(graded[label].get(i)) for label in compared]) for i in every}
    picked = choose(groups, {i: p.medium for i, p in every.items()}, cap)
    entries = []
    for question_id in picked:
        question = every[question_id]
        answers = [
            _answer(r, asked[r.label].get(question_id), graded[r.label].get(question_id)) for r in holders
        ]
        entries.append(
            {
                "question_id": question_id,
                "row_id": question.row_id,
                "medium": question.medium,
                "category": question.category,
                "question": shorten(question.question or question.prompt),
                "reference": shorten(_reference(question.reference)),
                "group": groups[question_id],
                "answers": answers,
            }
        )
    return entries


def read_strips(runs: Sequence[EvaluationRun], benchmarks: Sequence[Mapping[str, Any]]) -> Strips:
    """The frame strips of the samples shown, within the report's byte budget, as data URIs.

    Evaluations that saw the same frames share one strip. Samples take turns between the benchmarks, so a
    budget that runs out takes the last samples of each, not all of one.
    """
    media = {(b["name"], s["medium"]) for b in benchmarks for s in b["samples"] if s["medium"]}
    thumbs = {r.label: read_thumbs(r.header.path, {m for _, m in media}) for r in runs}
    turns = zip_longest(*[[(b["name"], s["medium"]) for s in b["samples"]] for b in benchmarks])
    strips: Strips = {}
    left = STRIP_BYTES_IN_ALL
    for key in (k for turn in turns for k in turn if k is not None):
        if key in strips or not key[1]:
            continue
        labels = [r.label for r in runs if key[0] in r.predictions]
        shown, size = _strips_of({label: thumbs[label].get(key[1], []) for label in labels})
        fits = size <= left
        strips[key] = shown if fits else []
        left -= size if fits else 0
    return strips


def shorten(text: str, limit: int = TEXT_CHARACTERS) -> str:
    """Text cut to a length, saying how much was cut."""
    return text if len(text) <= limit else f"{text[:limit]}… (+{len(text) - limit:,} characters)"


def _answer(run: EvaluationRun, prediction: Prediction | None, graded: Graded | None) -> dict[str, Any]:
    if prediction is None:
        empty = {"text": "", "detail": "", "parsed": "", "verdicts": []}
        return {"label": run.label, "mark": "missing", "outcome": "not_asked", **empty}
    verdicts = run.verdicts.get((prediction.benchmark, prediction.question_id), [])
    outcome = str(graded.outcome) if graded is not None else str(prediction.outcome)
    return {
        "label": run.label,
        "mark": mark_of(graded),
        "outcome": outcome,
        "value": None if graded is None else graded.value,
        "score": None if graded is None else graded.score,
        "text": shorten(prediction.text),
        "detail": shorten(prediction.detail),
        "parsed": "" if graded is None else shorten(graded.parsed),
        "verdicts": [_verdict(v) for v in verdicts],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "judge": verdict.judge,
        "judge_model": verdict.judge_model,
        "rubric": verdict.rubric.partition("@")[0],
        "flags": list(verdict.flags),
        "outcome": str(verdict.outcome),
        "correct": verdict.correct,
        "score": verdict.score,
        "reply": shorten(verdict.reply),
    }


def _reference(reference: str) -> str:
    """A reference as people read it: a JSON list of answers becomes the distinct answers."""
    try:
        value = json.loads(reference)
    except ValueError:
        return reference
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return " / ".join(dict.fromkeys(value))
    return reference


def _strips_of(seen: Mapping[str, list[tuple[float, bytes]]]) -> tuple[list[dict[str, Any]], int]:
    """One strip for each different set of frames, and the bytes they take."""
    by_content: dict[bytes, dict[str, Any]] = {}
    size = 0
    for label, frames in seen.items():
        if not frames:
            continue
        content = b"|".join(data for _, data in frames)
        if content in by_content:
            by_content[content]["labels"].append(label)
            continue
        drawable = [(uri, pts) for pts, data in frames[:FRAMES_PER_STRIP] if (uri := data_uri(data))]
        shown = [{"uri": uri, "pts_s": None if math.isnan(pts) else pts} for uri, pts in drawable]
        size += sum(len(uri) for uri, _ in drawable)
        by_content[content] = {"labels": [label], "frames": shown, "cut": len(frames) - len(shown)}
    return list(by_content.values()), size


def data_uri(data: bytes) -> str:
    """An image as a data URI; empty for bytes that are not an image a browser may be given."""
    for signature, mime in SIGNATURES.items():
        if data.startswith(signature):
            return f"data:{mime};base64,{base64.b64encode(data).decode()}"
    return ""
