"""What is told while a run goes on."""

import io
import time

from raypipe.prepare.progress import Tally
from raypipe.prepare.units import UnitRef
from raypipe.terminal import Step, duration

UNITS = [UnitRef(f"u{n}", 0, 0, media=10, weight=w) for n, w in enumerate((40, 10, 10, 20))]


def record(unit: str, ok: int, bad: int) -> dict:
    return {
        "unit": unit,
        "keys": ["k"] * (ok - 1),
        "aliases": {"a": "k"},
        "rejections": [{}] * bad,
        "frames": 8 * ok,
        "source_bytes": 6_000_000,
    }


def test_counts_and_the_time_left():
    tally = Tally.start(UNITS, UNITS[:3])
    assert tally.seconds_left() is None
    assert tally.line(tally.started + 1).startswith("10/40 media")
    tally.add(record("u0", 8, 2))
    assert tally.line(tally.started + 20) == (
        "20/40 media, 0.5/s, 3 frames/s, 0.3 MB/s, 8 ok, 2 quarantined, 10 s left"
    )
    tally.add(record("u1", 10, 0))
    tally.add(record("u2", 10, 0))
    assert tally.line(tally.started + 30).endswith("28 ok, 2 quarantined")
    assert tally.ok + tally.quarantined == tally.media == 30


def test_durations():
    assert [duration(s) for s in (0.4, 59, 90, 3599, 7260)] == [
        "0 s",
        "59 s",
        "1 min 30 s",
        "59 min 59 s",
        "2 h 01 min",
    ]


def test_a_log_hears_of_work_that_tells_nothing():
    out = io.StringIO()
    with Step("prepare x", every_s=0.05, out=out) as step:
        step.note("7/40 media")
        deadline = time.monotonic() + 20
        while out.getvalue().count("7/40 media") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    lines = out.getvalue().splitlines()
    assert lines[0] == "prepare x ..."
    assert lines[1].startswith("prepare x: 7/40 media, ")
    assert lines[1].endswith(" s so far")
    assert lines[-1].startswith("prepare x: 7/40 media, ")
