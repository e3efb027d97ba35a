"""Units in one Ray Data stream: media are read by tasks on CPUs, ahead of the actors that hold the model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raypipe import errors
from raypipe.capacity import Need
from raypipe.cluster import all_cpus, require, unwrapped
from raypipe.errors import RaypipeError, RequestError
from raypipe.evaluate import gauges
from raypipe.evaluate.attempts import begin, forget
from raypipe.evaluate.engines import units_at_once
from raypipe.evaluate.plan import Unit
from raypipe.evaluate.read import pack_media, unpack_media
from raypipe.evaluate.work import Answerer, Done, Work
from raypipe.judge.pool import ACTOR_CPUS, actors_for
from raypipe.records import PREDICTION_SCHEMA, predictions_of, to_table
from raypipe.settings import EvaluateSettings
from raypipe.shared import Marker, marked
from raypipe.store.shards import encode

READ, ANSWER = "read media", "answer"  # the operators' names on the dashboard
READ_MEMORY = 512 << 20  # bytes; asked for reading alone, so that Ray does not fuse it into the model's actor
LEAST_READ_CPUS = 0.25
NO_MARKER = Marker()

Row = dict[str, Any]


def on_ray(units: Sequence[Unit], work: Work) -> Iterator[Done]:
    """Carries out units; yields them as they are committed.

    What is read and waits for a model is bounded by ``read_ahead_mib``, and by half of the object store.

    Raises:
        RequestError: the cluster has no room for an actor with the model and for reading beside it.
    """
    room = _room(work.settings)
    forget(work.store)
    counts = {unit.id: unit.count for unit in units}
    left = sum(counts.values())
    gauges.LEFT.set(left, run=work.name)
    with unwrapped("evaluate"), marked(work.settings.out) as marker:
        for row in stream_of(units, work, room, marker).iter_rows():
            _raise_fault(row)
            left -= counts.pop(row["id"], 0)
            gauges.LEFT.set(left, run=work.name)
            yield Done(row["id"], tuple(_predictions(row["predictions"])))


def stream_of(units: Sequence[Unit], work: Work, room: Room, marker: Marker = NO_MARKER) -> Any:
    """The dataset whose rows are answered units; nothing runs before they are taken.

    Args:
        marker: of the run folder; a node that does not see it carries nothing out.
    """
    import ray.data
    from ray.data import ExecutionResources

    settings = work.settings
    rows = [{"unit": unit.pack(), "id": unit.id} for unit in units]
    source = ray.data.from_items(rows, override_num_blocks=len(rows))
    source.set_name(f"evaluate {work.name}")
    source.context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=settings.read_ahead_mib << 20
    )
    return source.map(reading(work, marker), num_cpus=room.read_cpus, memory=READ_MEMORY).map(
        answering(),
        fn_constructor_args=(work, marker),
        compute=ray.data.ActorPoolStrategy(
            min_size=room.low,
            max_size=room.high,
            # One unit is taken in or committed while others are answered.
            max_concurrent_calls_per_actor=1 + units_at_once(settings),
            enable_true_multi_threading=True,
        ),
        num_cpus=settings.actor_cpus,
        num_gpus=settings.actor_gpus,
    )


def reading(work: Work, marker: Marker = NO_MARKER) -> Callable[[Row], Row]:
    """The task that reads the media of a unit."""

    def read(row: Row) -> Row:
        unit = Unit.unpack(row["unit"])
        try:
            marker.check()
            attempt = begin(work.store, "read", unit.id, len(unit.groups))
            media = work.reader()(unit, attempt)
        except RaypipeError as fault:
            return {**row, **pack_media({}), "fault": _said(fault)}
        gauges.count_media(work.name, unit.benchmark, media.values())
        return {**row, **pack_media(media), "fault": ""}

    read.__name__ = READ
    return read


def answering() -> type:
    """The actor that answers the questions of units."""
    return type(ANSWER, (_Actor,), {})


class _Actor:
    """Holds the model, which is loaded once."""

    def __init__(self, work: Work, marker: Marker = NO_MARKER) -> None:
        self._marker = marker
        self._store, self._name = work.store, work.name
        begun = time.monotonic()
        self._answerer: Answerer = work.answerer()
        gauges.count_load(self._name, time.monotonic() - begun)

    def __call__(self, row: Row) -> Row:
        answer = {"id": row["id"], "predictions": b"", "fault": row["fault"]}
        if row["fault"]:
            return answer
        unit, begun = Unit.unpack(row["unit"]), time.monotonic()
        try:
            self._marker.check()
            attempt = begin(self._store, "answer", unit.id, len(unit.groups))
            predictions = self._answerer(unit, unpack_media(row), attempt)
        except RaypipeError as fault:
            return {**answer, "fault": _said(fault)}
        gauges.count_answers(self._name, unit.benchmark, predictions, time.monotonic() - begun)
        return {**answer, "predictions": encode(to_table(predictions, PREDICTION_SCHEMA))}


@dataclass(frozen=True)
class Room:
    """Actors at least and at most, and the CPUs of a task that reads."""

    low: int
    high: int
    read_cpus: float


def _room(settings: EvaluateSettings) -> Room:
    """How the cluster is divided between the model's actors, reading and the judge.

    Raises:
        RequestError: it is too small.
    """
    low, high = settings.actor_range
    taken = settings.actor_cpus
    actors = Need("actor", low, taken, settings.actor_gpus)
    cpus = all_cpus()
    if cpus is None:  # nodes are added where they are needed
        require("the evaluation", actors, Need("reader", 1, 1.0))
        return Room(low, high, 1.0)
    require("the evaluation", actors)
    cpus -= _of_the_judge(settings)
    left = cpus - low * taken
    if left < LEAST_READ_CPUS:
        raise RequestError(
            f"{low} actors of {taken:g} CPUs leave {max(0.0, left):g} of {cpus:g} CPUs for reading media, "
            f"which needs {LEAST_READ_CPUS:g}",
            "lower actors= or actor_cpus=, or run on a larger cluster",
        )
    if taken:
        high = max(low, min(high, int((cpus - 1) // taken)))
    return Room(low, high, min(1.0, left))


def _of_the_judge(settings: EvaluateSettings) -> float:
    """CPUs that judge actors take beside all this."""
    if settings.judge is None:
        return 0.0
    return ACTOR_CPUS * actors_for(settings.judge.concurrency)


def _said(fault: RaypipeError) -> str:
    """A fault as text: Ray Data would hand on its words and lose what it is."""
    return json.dumps([type(fault).__name__, fault.message, fault.remedy])


def _raise_fault(row: Row) -> None:
    if row["fault"]:
        kind, message, remedy = json.loads(row["fault"])
        raise getattr(errors, kind, RaypipeError)(message, remedy)


def _predictions(data: bytes) -> list[Any]:
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        return predictions_of(reader.read_all().to_pylist())
