"""What a prepare run tells the dashboard: workers what became of a unit, the driver how much is left."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Sequence

from raypipe.gauges import Counter, Gauge, run_of
from raypipe.prepare.held import Record
from raypipe.prepare.units import UnitRef
from raypipe.settings import DatasetSettings

TAGS = ("run", "dataset")

MEDIA = Counter(
    "raypipe_prepare_media",
    "media prepared, by outcome (ok or the reason of the quarantine)",
    (*TAGS, "outcome"),
)
FRAMES = Counter("raypipe_prepare_frames", "frames stored", TAGS)
READ = Counter("raypipe_prepare_source_bytes", "bytes of the media files read", TAGS)
WRITTEN = Counter("raypipe_prepare_stored_bytes", "bytes of the shards written", TAGS)
WORKED = Counter("raypipe_prepare_work_seconds", "seconds that tasks decoded and stored, together", TAGS)
LEFT = Gauge("raypipe_prepare_remaining_media", "media of this start that are not prepared yet", TAGS)


def count_unit(settings: DatasetSettings, record: Record, took_s: float) -> None:
    """Counts a unit of this worker."""
    tags = tags_of(settings)
    outcomes = Counts(str(r["reason"]) for r in record["rejections"])
    outcomes["ok"] = len(record["keys"]) + len(record["aliases"])
    for outcome, count in outcomes.items():
        MEDIA.add(count, **tags, outcome=outcome)
    FRAMES.add(record["frames"], **tags)
    READ.add(record["source_bytes"], **tags)
    WRITTEN.add(record["file"]["bytes"] if record["file"] else 0, **tags)
    WORKED.add(took_s, **tags)


class Remaining:
    """In the driver: tells how many media are left."""

    def __init__(self, settings: DatasetSettings, units: Sequence[UnitRef]) -> None:
        self._tags, self._units = tags_of(settings), {unit.id: unit.media for unit in units}
        self._left = sum(self._units.values())
        LEFT.set(self._left, **self._tags)

    def done(self, record: Record) -> None:
        self._left -= self._units.pop(record["unit"], 0)
        LEFT.set(self._left, **self._tags)


def tags_of(settings: DatasetSettings) -> dict[str, str]:
    return {"run": run_of(settings.out), "dataset": settings.name}
