"""The plan of an evaluation, and of judging one: the verbs' own counts, held against machines and prices."""

from __future__ import annotations

from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.evaluate.commit import predictions_in
from raypipe.evaluate.forecast import forecast
from raypipe.judge.estimate import estimate
from raypipe.planning.fit import Ask, Fit, placed
from raypipe.planning.room import Room, cost_line, cost_of, place_lines
from raypipe.planning.text import Line, page, size
from raypipe.settings import EvaluateSettings, JudgeSettings, build, load
from raypipe.store.run import Run

READ_CPUS = 0.25  # the least that reading media beside the actors takes, as in evaluate/on_ray.py
COUNTS = {
    "media_missing": "media missing",
    "packed": "media to be unpacked",
    "prepared": "media out of prepare runs",
    "judged": "answers for a judge",
}


def plan_evaluate(settings: EvaluateSettings, room: Room) -> tuple[str, dict[str, Any], list[Fit]]:
    """The plan as text and as data, and where its actors find room.

    Raises:
        RequestError: as the evaluation itself, as far as it shows without a model.
    """
    found = forecast(settings)
    fits, floor = placed(asks_of(settings), room.machines)
    gpus = fits[0].held * settings.actor_gpus
    cost = cost_of(floor, None, gpus)
    gpu = _held_against(found, settings, room)
    result = {
        **found,
        "gpu": gpu,
        "machines": room.machines.row(),
        "fit": [one.row() for one in fits],
        "cost": cost,
    }
    missing = [
        ("lacks", f"{said}; its memory and what it may have answered are not known")
        for said in found["lacks"]
    ]
    lines = [*missing, *_counts(found), *_model(found, settings, gpu), *_judge(found["judge"])]
    lines += place_lines(fits, room)
    if room.machines.where != "this machine":
        lines.append(cost_line(cost, room))
    return page(f"plan of {found['out']}: nothing is started", lines), result, fits


def plan_judge(root: str, overrides: list[str]) -> tuple[str, dict[str, Any]]:
    """What ``raypipe judge RUN`` would ask and pay, as text and as data.

    Raises:
        RequestError: no finished evaluation, or wrong settings of a judge.
    """
    run = Run.open(root, "evaluate")
    stored = run.settings["settings"]
    wanted = load(JudgeSettings, None, [item.removeprefix("judge.") for item in overrides])
    given = wanted.model_dump(exclude_unset=True)
    settings = build(JudgeSettings, {**(stored.get("judge") or {}), **given}, "command line")
    predictions, splits = predictions_in(run), stored.get("splits", {})
    asked = {name: benchmarks.load(name, splits.get(name)) for name in {p.benchmark for p in predictions}}
    open_answers = [p for p in predictions if benchmarks.wants_judge(asked[p.benchmark], p)]
    found = estimate(open_answers, lambda name: asked[name].rubric, settings, run_store=run.store)
    judged = {"name": settings.name, "model": settings.model, **found.row()}
    result = {
        "run": run.store.root,
        "answers": len(predictions),
        "open_answers": len(open_answers),
        "judge": judged,
    }
    lines: list[Line] = [
        ("answers", f"{len(predictions):,}, of which a judge may grade {len(open_answers):,}")
    ]
    if found.shared:
        lines.append(("there already", f"{found.shared:,} verdicts, or of the same content as another"))
    lines += _judge({**judged, "more_calls": 0}) or [(settings.model, "nothing is left to ask")]
    return page(f"plan of judging {run.store.root}: nothing is started", lines), result


def asks_of(settings: EvaluateSettings) -> list[Ask]:
    """What an evaluation asks of a cluster: actors, readers beside them, senders to the judge."""
    low, high = settings.actor_range
    asks = []
    if settings.judge is not None:
        from raypipe.judge.pool import ACTOR_CPUS, actors_for  # the only one here that imports Ray

        count = actors_for(settings.judge.concurrency)
        asks.append(Ask("judge sender", count, count, ACTOR_CPUS, 0))
    actors = Ask("actor with the model", high, low, settings.actor_cpus, settings.actor_gpus)
    return [actors, Ask("reader of media", 1, 1, READ_CPUS, 0), *asks]


def _held_against(found: dict[str, Any], settings: EvaluateSettings, room: Room) -> dict[str, Any] | None:
    actor = found["model"]["actor"]
    if actor is None or room.gpu is None or not settings.actor_gpus:
        return None
    share = actor["device_bytes"] / (room.gpu.bytes * min(1.0, settings.actor_gpus))
    return {"name": room.gpu.name, "bytes": room.gpu.bytes, "share": share, "fits": share <= 1}


def _counts(plan: dict[str, Any]) -> list[Line]:
    rows = [(f"{row['benchmark']} {row['split']}".rstrip(), _said(row)) for row in plan["benchmarks"]]
    rows += [(name, f"no data: {path}") for name, path in plan["missing_benchmarks"].items()]
    rows.append(("in all", _said(plan["totals"])))
    count = plan["totals"]["certificate"]
    return [*rows, ("certificate", f"{count} answers once more, one at a time")] if count else rows


def _said(row: dict[str, int]) -> str:
    said = f"{row['questions']} questions on {row['media']} media, {row['answered']} answered"
    said += f"; to do: {row['decodes']} decodes, {row['generations']} answers"
    return said + "".join(f", {row[key]} {name}" for key, name in COUNTS.items() if row[key])


def _model(plan: dict[str, Any], settings: EvaluateSettings, gpu: dict[str, Any] | None) -> list[Line]:
    model = plan["model"]
    if model["bytes_to_fetch"]:
        return [("model", f"{size(model['bytes_to_fetch'])} to fetch, once a node")]
    lines: list[Line] = []
    if model["weight_bytes"]:
        said = f"{model['parameters'] / 1e6:.1f} million weights, {size(model['weight_bytes'])}"
        cache = model["cache_bytes_per_token"]
        lines.append(("model", said + (f"; {size(cache)} of cache a token" if cache else "")))
    actor = model["actor"]
    if actor is None:
        return lines
    said = f"{size(actor['device_bytes'])} at batch={settings.batch}"
    said += f", prompts of at most {actor['prompt_tokens']} tokens"
    if gpu is not None:
        share = f", of {settings.actor_gpus:g} of it" if settings.actor_gpus < 1 else ""
        said += f": {'fits' if gpu['fits'] else 'DOES NOT FIT'}, {100 * gpu['share']:.0f} % of "
        said += f"{size(gpu['bytes'])} ({gpu['name']}){share}"
    parts = ("weights", "cache", "prefixes", "working", "runtime")
    lines.append(("actor memory", said))
    lines.append(("", ", ".join(f"{name} {size(actor[name])}" for name in parts if actor[name])))
    return lines


def _judge(judge: dict[str, Any]) -> list[Line]:
    if not (judge["calls"] or judge["more_calls"]):
        return []
    tokens = judge["prompt_tokens"] + judge["reply_tokens"]
    said = f"{judge['calls']} calls, about {tokens / 1e6:.2f} million tokens"
    if judge["at_most_usd"]:
        said += f", about {judge['usd']:.2f} USD and at most {judge['at_most_usd']:.2f}"
    said += f"; {judge['more_calls']} more at most" if judge["more_calls"] else ""
    return [(judge.get("model", "a judge"), said)]
