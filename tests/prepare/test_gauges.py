"""What a prepare run tells the dashboard."""

from raypipe.prepare.gauges import Remaining, count_unit
from raypipe.prepare.units import UnitRef
from raypipe.settings import DatasetSettings

SETTINGS = DatasetSettings(
    name="valley", data_root="data", annotations=["a.json"], out="s3://bucket/prepared/valley-8/"
)
TAGS = ("valley-8", "valley")
RECORD = {
    "unit": "u1",
    "file": {"path": "media/u1.arrow", "rows": 2, "bytes": 700, "sha256": ""},
    "keys": ["a", "b"],
    "aliases": {"c": "a"},
    "frames": 16,
    "source_bytes": 9000,
    "rejections": [{"reason": "media_missing"}, {"reason": "media_missing"}, {"reason": "media_truncated"}],
}


def test_a_unit_by_outcomes_bytes_and_time(told):
    count_unit(SETTINGS, RECORD, 1.5)
    count_unit(SETTINGS, {**RECORD, "file": None, "keys": [], "aliases": {}, "frames": 0}, 0.5)
    media = told.sums("raypipe_prepare_media")
    assert media == {(*TAGS, "ok"): 3, (*TAGS, "media_missing"): 4, (*TAGS, "media_truncated"): 2}
    assert told.sums("raypipe_prepare_frames") == {TAGS: 16}
    assert told.sums("raypipe_prepare_source_bytes") == {TAGS: 18000}
    assert told.sums("raypipe_prepare_stored_bytes") == {TAGS: 700}
    assert told.sums("raypipe_prepare_work_seconds") == {TAGS: 2.0}


def test_what_is_left_goes_to_nothing_and_counts_a_unit_once(told):
    remaining = Remaining(SETTINGS, [UnitRef("u1", 0, 1, 6, 1), UnitRef("u2", 1, 1, 4, 1)])
    remaining.done(RECORD)
    remaining.done(RECORD)
    remaining.done({**RECORD, "unit": "u2"})
    assert told.values["raypipe_prepare_remaining_media"][TAGS] == [10, 4, 4, 0]
