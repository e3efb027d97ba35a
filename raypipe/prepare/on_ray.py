"""Units as Ray Data tasks, one CPU each, with the counters that the Ray dashboard shows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from raypipe import errors
from raypipe.capacity import Need
from raypipe.cluster import require, unwrapped
from raypipe.errors import RaypipeError, ServiceError
from raypipe.prepare import gauges
from raypipe.prepare.held import Record
from raypipe.prepare.units import UnitRef
from raypipe.prepare.work import Work
from raypipe.shared import Marker, marked
from raypipe.store.files import Store

ATTEMPTS = "attempts"
TRIES = 4  # of a unit whose worker died; Ray Data itself would try for ever


def on_ray(units: Sequence[UnitRef], work: Work) -> Iterator[Record]:
    """Carries out units; yields their records as they come."""
    require("prepare", Need("task", 1, 1.0))
    told = gauges.Remaining(work.settings, units)
    with unwrapped("prepare"), marked(work.store.root) as marker:
        for row in _stream_of(units, work, marker).iter_rows():
            if row["fault"]:
                kind, *said = json.loads(row["fault"])
                raise getattr(errors, kind, RaypipeError)(*said)
            record = json.loads(row["record"])
            told.done(record)
            yield record


def _stream_of(units: Sequence[UnitRef], work: Work, marker: Marker) -> Any:
    """The dataset whose rows are units that were carried out; nothing runs before they are taken."""
    import ray.data

    def decode(row: dict[str, Any]) -> dict[str, Any]:  # its name is the operator's on the dashboard
        unit, begun = UnitRef(**json.loads(row["unit"])), time.monotonic()
        try:
            marker.check()
            note_attempt(work.store, unit.id)
            record = work(unit)
        except RaypipeError as fault:  # Ray Data would hand on its text and lose what it is
            return {"record": "", "fault": json.dumps([type(fault).__name__, fault.message, fault.remedy])}
        gauges.count_unit(work.settings, record, time.monotonic() - begun)
        return {"record": json.dumps(record), "fault": ""}

    work.store.delete_many(work.store.list(ATTEMPTS))
    rows = [{"unit": json.dumps(asdict(unit))} for unit in units]
    at_once = work.settings.concurrency and min(work.settings.concurrency, len(rows))
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        decode, num_cpus=1, compute=ray.data.TaskPoolStrategy(size=at_once)
    )
    dataset.set_name(f"prepare {work.settings.name}")
    return dataset


def note_attempt(store: Store, unit: str) -> None:
    """Writes down that a unit is begun.

    Raises:
        ServiceError: it has ended its worker too often.
    """
    for number in range(TRIES):
        if store.put_new(f"{ATTEMPTS}/{unit}-{number}", b""):
            return
    raise ServiceError(
        f"the worker died {TRIES} times in unit {unit}, which is not the decoder's doing",
        "see whether memory is short (ray list tasks, dmesg), then run the same command: it continues",
    )
