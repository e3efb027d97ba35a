"""The judge of a finished evaluation, asked again about a sample of what it has said."""

from __future__ import annotations

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.evaluate.commit import predictions_in
from raypipe.judge.book import VIEW
from raypipe.judge.drift import Drift, drift, render
from raypipe.judge.log import VERDICTS
from raypipe.records import VERDICT_SCHEMA, verdicts_of
from raypipe.settings import JudgeSettings
from raypipe.store.ledger import Ledger
from raypipe.store.run import Progress, Run
from raypipe.store.shards import Shard

__all__ = ["Drift", "drift_of", "render"]


def drift_of(
    root: str,
    settings: JudgeSettings,
    sample: int,
    progress: Progress | None = None,
    *,
    use_ray: bool = True,
) -> Drift:
    """Compares the verdicts that count in a run with today's. Nothing is written into the run.

    Raises:
        RequestError: the run holds no verdict by this judge.
        ServiceError: the endpoint refuses.
    """
    run = Run.open(root, "evaluate")
    splits = run.settings["settings"].get("splits", {})
    predictions = predictions_in(run)
    rubrics = {n: benchmarks.load(n, splits.get(n)).rubric for n in {p.benchmark for p in predictions}}
    if run.store.exists(VIEW):
        rows = Shard(run.store, VIEW, VERDICT_SCHEMA).table().to_pylist()
    else:
        rows = Ledger(run.store, VERDICTS, VERDICT_SCHEMA).rows()
    if not rows:
        raise RequestError(f"{root} has not been judged", "raypipe judge RUN model=...")
    answers = [p for p in predictions if benchmarks.wants_judge(benchmarks.load(p.benchmark), p)]
    stored = verdicts_of(rows)
    return drift(answers, stored, rubrics.get, settings, sample=sample, use_ray=use_ray, progress=progress)
