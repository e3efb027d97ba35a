"""The plan of a training stage: the stage's own forecast, held against machines and prices."""

from __future__ import annotations

from typing import Any

from raypipe.planning.fit import Ask, Fit, placed
from raypipe.planning.machines import GPUS
from raypipe.planning.room import Room, cost_line, cost_of, place_lines
from raypipe.planning.text import Line, hours, many, page, size, some
from raypipe.settings import DatasetSettings, StageSettings
from raypipe.train.forecast import forecast, needs

TIGHT = 0.9  # of a GPU's memory: over it the estimate of activations decides


def plan_train(settings: StageSettings, room: Room) -> tuple[str, dict[str, Any], list[Fit]]:
    """The plan as text and as data, and where its processes find room.

    Raises:
        RequestError: as the stage itself, as far as it shows without a model.
    """
    found = forecast_of(settings)
    asks = asks_of(settings)
    fits, floor = placed(asks, room.machines)
    time_h = hours_of(found, settings, room)
    gpus = settings.workers.num * settings.workers.gpus
    cost = cost_of(floor, time_h, gpus)
    result = {
        **found,
        "needs": needs(settings),
        "machines": room.machines.row(),
        "fit": [one.row() for one in fits],
        "gpu": judged(found, settings, room),
        "assumed": {"mfu": room.mfu, "given": room.mfu_given, "peak": room.gpu.peak if room.gpu else None},
        "cost": cost,
    }
    lines = stage_lines(result, settings)
    lines += place_lines(fits, room)
    if gpus:
        lines += [_time_line(result, time_h, room), cost_line(cost, room)]
    title = f"plan of {settings.name}: nothing is started"
    return page(title, lines), result, fits


def forecast_of(settings: StageSettings) -> dict[str, Any]:
    """The stage's own forecast, in which parts that are to be prepared first are looked at, too."""
    return forecast(settings, _look)


def asks_of(settings: StageSettings) -> list[Ask]:
    """What a stage asks of a cluster: workers, and the tasks of validation beside them."""
    workers, chosen = settings.workers, settings.validation
    asks = [Ask("worker", workers.num, workers.min_num or workers.num, workers.cpus, workers.gpus)]
    if chosen.fraction or chosen.benchmarks:
        asks.append(Ask("validation task", 1, 1, chosen.cpus, chosen.gpus, later=not chosen.wait))
    return asks


def stage_lines(plan: dict[str, Any], settings: StageSettings) -> list[Line]:
    """What is read, done, taken and written, without the machines."""
    lines = [("reads" if n == 0 else "", _source(s)) for n, s in enumerate(plan["reads"])]
    lines += [
        ("lacks", said) for said in plan["lacks"][sum(s["state"] == "missing" for s in plan["reads"]) :]
    ]
    lines.append(("steps", _steps(plan["steps"], settings)))
    if plan["tokens"]:
        lines.append(("tokens", _tokens(plan["tokens"])))
    if "model" not in plan:
        text = "not known without the model; for one of a published size: start.model=null start.random=7b"
        return [*lines, ("memory", text)]
    lines.append(("parameters", _parameters(plan["model"])))
    lines += _memory(plan["memory"], plan.get("gpu"), settings)
    lines.append(("writes", _writes(plan["writes"])))
    return lines


def _look(dataset: DatasetSettings) -> tuple[int, int, int]:
    from raypipe.prepare.read import Annotations
    from raypipe.prepare.survey import survey

    samples = survey(dataset, Annotations(dataset)).samples
    return samples.total(), samples["image"], samples["video"] + samples["both"]


def judged(found: dict[str, Any], settings: StageSettings, room: Room) -> dict[str, Any] | None:
    """A rank's memory against the GPU's; None where one of them is not known."""
    if "memory" not in found or room.gpu is None or not settings.workers.gpus:
        return None
    memory, has = found["memory"], room.gpu.bytes
    fitting = [r["micro_batch"] for r in memory["by_micro_batch"] if r["device_bytes"] <= has]
    return {
        "name": room.gpu.name,
        "bytes": has,
        "share": memory["device_bytes"] / has,
        "fits": memory["device_bytes"] <= has,
        "largest_micro_batch": max(fitting, default=0),
        "ways": [] if fitting else _ways(memory, has),
    }


def _ways(memory: dict[str, Any], has: int) -> list[str]:
    """What would fit where no micro_batch does: of each kind the least change, then a larger GPU."""
    found: dict[str, str] = {}
    for way in memory["ways"]:
        if way["device_bytes"] <= has:
            found.setdefault(way["kind"], f"{way['set']} ({size(way['device_bytes'])})")
    least = memory["by_micro_batch"][0]["device_bytes"]
    larger = min(
        (gpu for gpu in GPUS.values() if gpu.bytes >= least), key=lambda gpu: gpu.bytes, default=None
    )
    if larger is not None:
        found["gpu"] = f"GPUs of {size(larger.bytes)} ({larger.name}) micro_batch=1 ({size(least)})"
    return list(found.values()) or ["a smaller model, or max_tokens that is lower"]


def hours_of(found: dict[str, Any], settings: StageSettings, room: Room) -> float | None:
    """Of computing alone: without start-up, validation and what waits for data."""
    gpus, peak = settings.workers.num * settings.workers.gpus, room.gpu.peak if room.gpu else None
    if not found.get("flops") or not gpus or peak is None or settings.precision != "bf16":
        return None
    return float(found["flops"]["in_all"] / (gpus * peak * room.mfu) / 3600)


def _source(source: dict[str, Any]) -> str:
    samples = "samples not known" if source["samples"] is None else f"{source['samples']:,} samples"
    kinds = [some(source[name], name[:-1]) for name in ("images", "videos") if source[name]]
    said = f"{source['data']}: {samples}" + (f" ({', '.join(kinds)})" if kinds else "")
    said += f", {size(source['bytes'])}" if source["bytes"] else ""
    said += f", weight {source['weight']:g}" if source["weight"] != 1 else ""
    if source["state"] == "missing":
        return f"{source['data']}: MISSING: {source['note']}"
    return said + (f"; {source['note']}" if source["note"] else "")


def _steps(steps: dict[str, Any], settings: StageSettings) -> str:
    if steps["steps"] is None:
        return "not known before all parts are prepared"
    said = f"{steps['steps']:,} of {settings.global_batch} samples"
    if steps["samples"] is None:
        return said
    epochs = steps["steps"] / steps["steps_per_epoch"]
    said += f"; {steps['samples']:,} samples an epoch, {epochs:.4g} epoch{'' if epochs == 1 else 's'}"
    said += f", {steps['held']:,} held out" if steps["held"] else ""
    return said if steps["exact"] else f"about {said}; prepare may leave some out"


def _tokens(tokens: dict[str, Any]) -> str:
    about = "" if tokens["exact"] else "about "
    said = f"{about}{many(tokens['in_all'])} in all, {many(tokens['a_step'])} a step"
    said += f", {tokens['a_sample']:.1f} a sample"
    if tokens["error"]:
        said += f" (+-{100 * tokens['error']:.1f} %, counted on {tokens['counted']:,})"
    for name, what in (("cut", "are cut to max_tokens"), ("dropped", "are left out")):
        said += f"; {100 * tokens[name]:.1f} % {what}" if tokens[name] else ""
    return said


def _parameters(model: dict[str, Any]) -> str:
    learns = ", ".join(f"{part} {many(count)}" for part, count in model["learns"].items())
    return f"{many(model['total'])}, of which {many(model['trained'])} learn: {learns}"


def _memory(memory: dict[str, Any], gpu: dict[str, Any] | None, settings: StageSettings) -> list[Line]:
    said = f"{size(memory['device_bytes'])} at ZeRO-{memory['zero']} over {some(memory['world'], 'worker')}"
    said += f", {memory['micro_batch']} rows of {memory['tokens_a_row']} tokens"
    if gpu is not None:
        verdict = "fits" if gpu["share"] <= TIGHT else "TIGHT" if gpu["fits"] else "DOES NOT FIT"
        said += f": {verdict}, {100 * gpu['share']:.0f} % of {size(gpu['bytes'])} ({gpu['name']})"
    lines = [("GPU memory" if settings.workers.gpus else "worker memory", said)]
    parts = {**memory["steady"], **memory["backward"]}
    parts |= {"CUDA and NCCL": memory["runtime"]} if memory["runtime"] else {}
    lines.append(("", ", ".join(f"{name} {size(count)}" for name, count in parts.items() if count)))
    lines.append(("", "(activations are an estimate for full rows, the rest follows from counts)"))
    for offload, head in ((False, "otherwise"), (True, "with deepspeed.offload_optimizer")):
        ways = [row for row in memory["others"] if row["offload_optimizer"] is offload]
        lines.append(
            ("", f"{head}: " + ", ".join(f"ZeRO-{w['zero']} {size(w['device_bytes'])}" for w in ways))
        )
    if gpu is not None and gpu["largest_micro_batch"] != memory["micro_batch"]:
        most = gpu["largest_micro_batch"]
        said = f"the largest micro_batch that fits is {most}"
        lines.append(("", said if most else f"no micro_batch fits; what would: {'; or '.join(gpu['ways'])}"))
    said = f"{size(memory['host_bytes'])} for each of its workers, beside the data it reads"
    return [*lines, ("node memory", said)]


def _writes(writes: dict[str, Any]) -> str:
    made = "" if writes["checkpoints"] is None else f", {writes['checkpoints']:,} of them"
    return (
        f"checkpoints of {size(writes['checkpoint_bytes'])}{made}, {writes['kept']} kept; a model of "
        f"{size(writes['export_bytes'])}; at most {size(writes['most_bytes'])} at a time"
    )


def _time_line(plan: dict[str, Any], time_h: float | None, room: Room) -> Line:
    flops = plan.get("flops")
    if not flops:
        return "takes", "not known before the data and the model are there"
    said = f"{flops['in_all']:.3g} FLOPs"
    if time_h is None or room.gpu is None or room.gpu.peak is None:
        return "takes", f"{said}; no hours: the GPU's peak is not known (name it: gpu=H100)"
    how = "as given" if room.mfu_given else "assumed, mfu=0.4 says otherwise"
    speed = f"{100 * room.mfu:g} % of {room.gpu.peak / 1e12:.0f} TFLOP/s"
    return "takes", f"{said}: {hours(time_h)} of computing at {speed} a GPU (MFU {how})"
