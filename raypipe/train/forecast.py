"""What a stage would read, do, take and write; nothing is started, nothing is written, no weights are loaded.

Steps, weights, optimizer states and checkpoint bytes are exact. Tokens are counted on all samples or on a
thousand of each part. Activations are an estimate (``memory.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raypipe.errors import DamageError, RequestError
from raypipe.model.outline import Outline
from raypipe.model.pieces import Weight
from raypipe.records import MediumKind
from raypipe.settings import DatasetSettings, Sharding, StageSettings, load, local, located
from raypipe.store.run import Run
from raypipe.train.epochs import Epochs
from raypipe.train.flops import COUNTED, counted
from raypipe.train.learns import Learns, learns_of
from raypipe.train.lengths import Lengths, lengths_of
from raypipe.train.memory import BYTES, Load, Memory, memory_of
from raypipe.train.mixture import IMAGE, VIDEO, Mixture
from raypipe.train.plan import StagePlan, plan_stage
from raypipe.train.split import split
from raypipe.train.start_outline import outline_of_start
from raypipe.train.ways import ways_of

MOMENTS_AND_MASTER = 12  # bytes of a checkpoint for each element that learns


@dataclass
class Source:
    """One part of the mixture: what is known of it now.

    Attributes:
        state: "prepared", "to prepare" (its dataset yaml is read in place of it) or "missing".
        samples: None where not even the annotations are there.
    """

    data: str
    weight: float
    state: str
    samples: int | None = None
    images: int = 0
    videos: int = 0
    bytes: int = 0
    note: str = ""  # what is to be done about it


@dataclass(frozen=True)
class Ready:
    """Data that is all there: the stage's own plan of it, and the numbers of the samples that train."""

    plan: StagePlan
    mixture: Mixture
    numbers: np.ndarray


@dataclass
class Known:
    """What is known of a stage's data."""

    sources: list[Source]
    ready: Ready | None = None
    lengths: Lengths | None = None


Look = Callable[[DatasetSettings], tuple[int, int, int]]


def forecast(settings: StageSettings, look: Look | None = None) -> dict[str, Any]:
    """What ``raypipe train`` with these settings would do.

    What is not there yet (a part that is not prepared, a model that another stage is to make) is said under
    ``lacks``, and everything that does not hang on it is worked out all the same.

    Args:
        look: samples, images and videos of a dataset that is not prepared yet; raises RequestError.

    Raises:
        RequestError: settings that the stage itself would refuse: a part without a name, nothing that learns.
    """
    settings = located(settings)
    known, lacks = _known(settings, look), list[str]()
    lacks += [f"{s.data}: {s.note}" for s in known.sources if s.state == "missing"]
    found: dict[str, Any] = {"name": settings.name, "out": settings.out, "lacks": lacks}
    found["reads"] = [asdict(source) for source in known.sources]
    outline, ready = None, known.ready
    try:
        outline, tokenizer = outline_of_start(settings.start, ready.mixture if ready else None)
        if ready is not None and tokenizer is not None:
            known.lengths = lengths_of(ready.mixture, ready.numbers, outline, tokenizer, settings)
    except (RequestError, DamageError) as fault:
        lacks.append(fault.message)
    found["steps"] = steps = _steps(settings, known)
    found["tokens"] = tokens = (
        _tokens(settings, known.lengths, ready, steps) if known.lengths and ready else None
    )
    if outline is None:
        return found
    learns = learns_of(outline, settings)
    labels = round(known.lengths.labels) if known.lengths else None
    return found | {
        "model": _model(outline, learns),
        "memory": _memory(outline, learns, settings, labels),
        "writes": _writes(learns, settings, steps),
        "flops": _flops(outline, learns, settings, known, steps, tokens) if tokens else None,
    }


def needs(settings: StageSettings) -> dict[str, Any]:
    """What the stage asks of a cluster: its workers, and the tasks beside them."""
    workers, chosen = settings.workers, settings.validation
    scored = bool(chosen.fraction or chosen.benchmarks)
    return {
        "workers": workers.num,
        "workers_least": workers.min_num or workers.num,
        "cpus": workers.cpus,
        "gpus": workers.gpus,
        "validation": {"cpus": chosen.cpus, "gpus": chosen.gpus} if scored else None,
    }


def _known(settings: StageSettings, look: Look | None) -> Known:
    known = Known([_source(part.data, part.weight, look) for part in settings.mixture])
    if any(source.state != "prepared" for source in known.sources):
        return known
    there = settings.model_copy(
        update={
            "mixture": [
                part.model_copy(update={"data": source.data})
                for part, source in zip(settings.mixture, known.sources, strict=True)
            ]
        }
    )
    plan = plan_stage(there)
    mixture = Mixture(plan.data)
    known.ready = Ready(plan, mixture, split(mixture, settings).train)
    kinds, parts = mixture.columns.kind, mixture.columns.part
    for number, source in enumerate(known.sources):
        mine = kinds[parts == number]
        source.images, source.videos = int((mine == IMAGE).sum()), int((mine == VIDEO).sum())
    return known


def _source(path: str, weight: float, look: Look | None) -> Source:
    if path.endswith((".yaml", ".yml")):
        dataset = load(DatasetSettings, path)
        if not _finished(dataset.out):
            return _unprepared(path, weight, dataset, look)
        path = local(dataset.out)
    try:
        manifest = Run.open(local(path), "prepare").manifest
    except RequestError as fault:
        note = fault.message.removesuffix(f": {local(path)}")
        return Source(path, weight, "missing", note=note)
    size = sum(int(entry["bytes"]) for entry in manifest["files"])
    return Source(path, weight, "prepared", int(manifest["totals"]["ok"]), bytes=size)


def _unprepared(path: str, weight: float, dataset: DatasetSettings, look: Look | None) -> Source:
    """A part that the stage prepares first: its samples are counted in the annotations."""
    source = Source(path, weight, "to prepare", note=f"is prepared first, into {local(dataset.out)}")
    if look is None:
        return source
    try:
        source.samples, source.images, source.videos = look(dataset)
    except RequestError as fault:
        if dataset.drawn is not None:
            source.note += "; its data is drawn then"
            return source
        return Source(path, weight, "missing", note=fault.message)
    return source


def _finished(out: str) -> bool:
    try:
        Run.open(local(out), "prepare")
    except RequestError:
        return False
    return True


def _steps(settings: StageSettings, known: Known) -> dict[str, Any]:
    """Samples, epochs and steps; None where a part's samples are not known."""
    if known.ready is not None:
        plan = known.ready.plan
        return {
            "samples": plan.samples,
            "held": plan.held,
            "steps": plan.steps,
            "steps_per_epoch": plan.steps_per_epoch,
            "epoch_samples": list(plan.epoch_samples),
            "exact": True,
        }
    counts = [source.samples for source in known.sources]
    there = [count for count in counts if count is not None]
    epochs = Epochs([*there], [part.weight for part in settings.mixture][: len(there)], settings.global_batch)
    if len(there) < len(counts) or not epochs.size(0):
        unknown = dict.fromkeys(("samples", "held", "steps_per_epoch"))
        return {**unknown, "steps": settings.steps, "exact": False}
    steps = settings.steps or epochs.steps(settings.epochs or 1.0)
    epochs.check(steps)
    last = epochs.place(max(0, steps - 1))[0]
    return {
        "samples": epochs.size(0),
        "held": None,
        "steps": steps,
        "steps_per_epoch": epochs.first_step(1),
        "epoch_samples": [epochs.size(epoch) for epoch in range(last + 1)],
        "exact": False,  # what prepare will quarantine is not known
    }


def _shown(steps: dict[str, Any], settings: StageSettings) -> float | None:
    """Samples over all steps; the last batch of an epoch may be smaller."""
    if steps["steps"] is None or steps["samples"] is None:
        return None
    each, whole = steps["steps_per_epoch"], steps["epoch_samples"]
    if len(whole) * each == steps["steps"]:
        return float(sum(whole))
    done = sum(whole[:-1])
    left = steps["steps"] - (len(whole) - 1) * each
    return float(done + min(whole[-1], left * settings.global_batch))


def _tokens(settings: StageSettings, lengths: Lengths, ready: Ready, steps: dict[str, Any]) -> dict[str, Any]:
    counts = np.bincount(ready.mixture.columns.part[ready.numbers], minlength=len(settings.mixture))
    drawn = counts * np.array([part.weight for part in settings.mixture])
    mean = float((drawn * np.array(lengths.tokens)).sum() / drawn.sum())
    shown = _shown(steps, settings) or 0.0
    whole = ready.plan.each_once and shown == sum(steps["epoch_samples"])
    return {
        "a_sample": mean,
        "a_step": mean * min(settings.global_batch, steps["samples"]),
        "in_all": mean * shown,
        "error": lengths.error / mean if mean else 0.0,
        "exact": lengths.exact and whole,
        "counted": lengths.counted,
        "labels_a_sample": lengths.labels,
        "longest": lengths.longest,
        "cut": lengths.cut,
        "dropped": lengths.dropped,
    }


def _model(outline: Outline, learns: Learns) -> dict[str, Any]:
    adapters = sum(weight.elements for weight in learns.adapters)
    return {
        "family": outline.family,
        "parameters": outline.by_part() | ({"adapters": adapters} if adapters else {}),
        "total": outline.count + adapters,
        "learns": learns.by_part,
        "trained": learns.trained,
        "frames": outline.frames,
    }


def _memory(outline: Outline, learns: Learns, settings: StageSettings, labels: int | None) -> dict[str, Any]:
    """Of the settings, and of what else could be chosen in their place."""
    world = settings.workers.num
    rows = -(-settings.global_batch // world)  # more of them in a micro-batch there cannot be
    micro = min(settings.micro_batch, rows)

    def of(**other: Any) -> Memory:
        chosen = settings.model_copy(update={"micro_batch": micro, **other})
        return memory_of(outline, learns, chosen, world, Load.of(chosen, outline, labels))

    def row(memory: Memory, **said: Any) -> dict[str, Any]:
        return {**said, "device_bytes": memory.device_bytes, "host_bytes": memory.host_bytes}

    sizes = sorted({min(1 << power, rows) for power in range(rows.bit_length() + 1)})
    ways = [{"zero": zero, "offload_optimizer": offload} for zero in (1, 2, 3) for offload in (False, True)]
    return {
        **of().row(),
        "zero": settings.deepspeed.zero,
        "world": world,
        "micro_batch": micro,
        "tokens_a_row": settings.max_tokens,
        "others": [row(of(deepspeed=Sharding.model_validate(way)), **way) for way in ways],
        "by_micro_batch": [row(of(micro_batch=size), micro_batch=size) for size in sizes],
        "ways": ways_of(outline, learns, settings, labels),
    }


def _writes(learns: Learns, settings: StageSettings, steps: dict[str, Any]) -> dict[str, Any]:
    each, total = MOMENTS_AND_MASTER * learns.trained, steps["steps"]
    made = None if total is None else -(-total // settings.checkpoint.every_steps)
    kept = settings.checkpoint.keep if made is None else min(made, settings.checkpoint.keep)
    export = BYTES[settings.precision] * learns.saved
    return {
        "checkpoint_bytes": each,
        "checkpoints": made,
        "kept": kept,
        "export_bytes": export,
        "most_bytes": each * (kept + 1) + export,  # a new one is whole before an old one goes
    }


def _flops(
    outline: Outline,
    learns: Learns,
    settings: StageSettings,
    known: Known,
    steps: dict[str, Any],
    tokens: dict[str, Any],
) -> dict[str, Any]:
    """Of all steps."""
    shown, samples = _shown(steps, settings) or 0.0, sum(source.samples or 0 for source in known.sources)
    kinds = {
        MediumKind.IMAGE: sum(s.images for s in known.sources),
        MediumKind.VIDEO: sum(s.videos for s in known.sources) * outline.frames,
    }
    frames = {kind: round(count * shown / max(1, samples)) for kind, count in kinds.items()}
    costs = _costs(outline, learns, settings)
    return {"in_all": costs.of(round(tokens["in_all"]), round(shown), frames), "counted": COUNTED}


def _costs(outline: Outline, learns: Learns, settings: StageSettings) -> Any:
    weights: tuple[Weight, ...] = (*outline.weights, *learns.adapters)
    return counted(
        weights,
        {kind: outline.part_of(f"{path}.") for kind, path in outline.towers.items()},
        outline.part_of,
        set(settings.rates) - ({"language_model"} if settings.lora else set()),
        tied=outline.text.tied,
        text=(outline.text.width, outline.text.layers),
        tower=(outline.vision.patches + 1, outline.vision.hidden, outline.vision.layers),
    )
