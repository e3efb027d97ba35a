"""Is it still the same judge? Stored verdicts against what the judge says today of the same answers.

A fixed sample: the verdicts whose keys come first, and keys are hashes of content, so the same answers are
taken each time. Nothing is written into the run.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raypipe.errors import RequestError
from raypipe.grading.judging import Ask, Asks, JudgedBy, asks_of
from raypipe.grading.judging import rubrics_of as rubrics_asked
from raypipe.grading.statistics import paired_difference
from raypipe.judge.case import Cases, RubricOf
from raypipe.judge.rubric_files import rubrics_of
from raypipe.judge.run import cost_usd, judge_run
from raypipe.records import Outcome, Prediction, Verdict
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store
from raypipe.store.run import Progress

SAMPLE = 100
SCALES = {"mm_vet": 1.0, "llava_bench": 10.0}  # the best score; 5 for all others


@dataclass(frozen=True)
class Agreement:
    """How far today's verdicts by one rubric agree with the stored ones.

    ``exact``: share with the same decision and score. ``kappa``: Cohen's, over decisions (or scores, where
    there are none); None where both sides say one and the same thing. ``difference``: mean of today's scores
    minus that of the stored ones, with a 95 % interval clustered by medium; None without a score.
    """

    rubric: str
    n: int
    lost: int  # without a verdict today
    exact: float | None
    kappa: float | None
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Drift:
    """The comparison, and who judged then and now."""

    judge: str
    then: dict[str, int]  # snapshot -> verdicts
    now: dict[str, int]
    agreements: tuple[Agreement, ...]
    usd: float

    def row(self) -> dict[str, Any]:
        return asdict(self)


def drift(
    predictions: Sequence[Prediction],
    stored: Sequence[Verdict],
    rubric_of: RubricOf,
    settings: JudgeSettings,
    *,
    sample: int = SAMPLE,
    use_ray: bool = True,
    progress: Progress | None = None,
) -> Drift:
    """Asks the judge again about a sample of what it has judged.

    Args:
        predictions: the run's answers.
        stored: the verdicts that count in it.
        settings: the judge that gave them; the cache is not used.
        sample: how many verdicts.

    Raises:
        RequestError: none of the verdicts is by this judge on these answers.
        ServiceError: the endpoint refuses.
    """
    fresh = settings.model_copy(update={"cache": None, "new_snapshot": "stop"})
    known = {v.key: v for v in stored if v.outcome is Outcome.OK}
    cases = {c.key: c for c in Cases(rubric_of, rubrics_of(fresh), fresh).of(predictions) if c.key in known}
    if not cases:
        raise RequestError(
            f"the run holds no verdict by the judge '{settings.name}' with model {settings.model}",
            "name the judge as it was: model=, name=, temperature=, rubric_files",
        )
    chosen = [cases[key] for key in sorted(cases)[:sample]]
    asked = list({p.question_id: p for case in chosen for p in case.predictions}.values())
    wanted = {(case.rubric.name, p.question_id) for case in chosen for p in case.predictions}
    with tempfile.TemporaryDirectory(prefix="raypipe-drift-") as folder:
        said = judge_run(
            Store(folder), asked, _of_sample(rubric_of, wanted), fresh, use_ray=use_ray, progress=progress
        )
    now = {v.key: v for v in said}
    pairs = [(known[c.key], now[c.key], c.predictions[0].medium) for c in chosen if c.key in now]
    return Drift(
        judge=settings.name,
        then=dict(Counter(then.judge_model for then, _, _ in pairs)),
        now=dict(Counter(v.judge_model for _, v, _ in pairs if v.outcome is Outcome.OK)),
        agreements=tuple(_agreements(pairs)),
        usd=cost_usd(now.values(), settings.price_now()),
    )


def render(found: Drift) -> str:
    """The comparison as text."""
    lines = [f"{found.judge}: {_names(found.then)} then, {_names(found.now)} now"]
    for a in found.agreements:
        parts = [f"{a.rubric}: {a.n} verdicts"]
        if a.exact is not None:
            parts.append(f"{100 * a.exact:.1f} % the same")
        if a.kappa is not None:
            parts.append(f"kappa {a.kappa:.2f}")
        if a.difference is not None:
            parts.append(f"score {a.difference:+.2f} [{a.low:+.2f}, {a.high:+.2f}]")
        if a.lost:
            parts.append(f"{a.lost} without a verdict today")
        lines.append(", ".join(parts))
    return "\n".join(lines)


def kappa(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    """Cohen's kappa of two raters; None where chance alone explains everything (one value on both sides).

    >>> round(kappa([(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15), 2)
    0.4
    """
    n = len(pairs)
    first, second = (Counter(side) for side in zip(*pairs, strict=True))
    chance = sum(first[value] * second[value] for value in first) / n**2
    same = sum(a == b for a, b in pairs) / n
    return None if chance == 1 else (same - chance) / (1 - chance)


def _of_sample(rubric_of: RubricOf, wanted: set[tuple[str, str]]) -> RubricOf:
    """What is asked of the sample alone: an answer may be judged by more rubrics than are in it."""

    def of_sample(name: str) -> Asks | None:
        asks = rubric_of(name)
        if asks is None:
            return None

        def some(prediction: Prediction) -> list[Ask]:
            return [a for a in asks_of(asks, prediction) if (a.rubric, prediction.question_id) in wanted]

        return JudgedBy(rubrics_asked(asks), some)

    return of_sample


def _agreements(pairs: Sequence[tuple[Verdict, Verdict, str]]) -> list[Agreement]:
    by_rubric: dict[str, list[tuple[Verdict, Verdict, str]]] = {}
    for pair in pairs:
        by_rubric.setdefault(pair[0].rubric.partition("@")[0], []).append(pair)
    return [_agreement(rubric, of) for rubric, of in sorted(by_rubric.items())]


def _agreement(rubric: str, pairs: Sequence[tuple[Verdict, Verdict, str]]) -> Agreement:
    good = [pair for pair in pairs if pair[1].outcome is Outcome.OK]
    lost = len(pairs) - len(good)
    if not good:
        return Agreement(rubric, 0, lost, None, None, None, None, None)
    exact = sum(_said(then) == _said(now) for then, now, _ in good) / len(good)
    agreed = kappa([(_decision(then), _decision(now)) for then, now, _ in good])
    scored = [p for p in good if p[0].score is not None and p[1].score is not None]
    if not scored:
        return Agreement(rubric, len(good), lost, exact, agreed, None, None, None)
    before = {then.key: float(then.score or 0.0) for then, _, _ in scored}
    today = {then.key: float(now.score or 0.0) for then, now, _ in scored}
    media = {then.key: medium for then, _, medium in scored if medium}
    gap = paired_difference(today, before, media, span=SCALES.get(rubric, 5.0))
    return Agreement(rubric, len(good), lost, exact, agreed, gap.difference, gap.low, gap.high)


def _said(verdict: Verdict) -> tuple[Any, ...]:
    return verdict.correct, verdict.score, verdict.baseline, verdict.choice


def _decision(verdict: Verdict) -> Any:
    decided = (verdict.correct, verdict.choice, verdict.score)
    return next((value for value in decided if value is not None), None)


def _names(counts: dict[str, int]) -> str:
    return ", ".join(f"{name or 'no named model'} ({n})" for name, n in sorted(counts.items())) or "nobody"
