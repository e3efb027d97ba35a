"""What the speed measurements stand on: the clock, the verdict, arms that do the same thing, the page."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bench import drawn, kernels, page, peers, rendition, tree
from bench.figure import figure, plain
from bench.pairs import Ratio, interval, paired, timed, verdict
from raypipe.records import MEDIA_SCHEMA

BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"


def test_a_verdict_needs_the_whole_interval():
    assert verdict(0.5, 0.6, 0.6) == "met"
    assert verdict(0.5, 0.61, 0.6) == "undecided"
    assert verdict(0.61, 0.7, 0.6) == "missed"
    low, high = interval(np.array([1.0, 1.1, 0.9, 1.05, 5.0]))
    assert 0.9 <= low < 1.05 < high <= 5.0


def test_pairs_are_taken_in_turn_and_the_ratio_is_a_over_b():
    calls: list[str] = []
    spent = [0.0]

    def arm(name: str, seconds: float):
        def work() -> None:
            calls.append(name)
            spent[0] += seconds

        return work

    ratio = paired(arm("a", 1.0), arm("b", 4.0), 4, lambda: spent[0])
    assert "".join(calls) == "ab" + "abbaabba"
    assert (ratio.median, ratio.low, ratio.high, ratio.a_s, ratio.b_s) == (0.25, 0.25, 0.25, 1.0, 4.0)


def test_the_tree_clock_counts_children_that_live_and_that_ended():
    with tree.TreeClock() as clock:
        before = clock()
        subprocess.run([sys.executable, "-c", BURN.format(seconds=0.4)], check=True)
        ended = clock() - before
        assert 0.39 <= ended < 1.5  # the kernel counts in hundredths
        child = subprocess.Popen(
            [sys.executable, "-c", BURN.format(seconds=0.4) + "\nprint()\ninput()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert child.stdout is not None
            child.stdout.readline()
            assert child.pid in tree.descendants(tree.os.getpid())
            assert tree.peak_mib(child.pid) > 1
            assert clock() - before - ended >= 0.39
        finally:
            child.kill()
            child.communicate()


def test_the_tree_clock_keeps_children_whose_parent_waits_for_nobody():
    """As the raylet does: the kernel forgets such a child's time when it ends."""
    burn = BURN.format(seconds=1.2)
    parent = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {burn!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.read()\n"
        "print(flush=True)\n"
        "input()"
    )
    with tree.TreeClock() as clock:
        before = clock()
        process = subprocess.Popen(
            [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.1)
            assert clock() - before >= 0.6  # all but what it used since the last look
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    patch = pytest.MonkeyPatch()
    patch.setenv("RAYPIPE_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield drawn.Drawn("tiny", (160, 96), 6, options=drawn.h264(30)).file()
    patch.undo()


def test_every_arm_shows_the_same_frames(clip):
    mine = kernels.raypipe(clip)
    assert np.asarray(mine[0]).shape == (96, 160, 3)
    for name, peer in kernels.peers().items():
        assert kernels.difference(mine, peer(clip)) < 4, name
    with pytest.raises(AssertionError):
        kernels.difference(mine, mine[:7])
    assert kernels.difference(mine, mine[::-1]) > 4


def test_copies_differ_in_bytes_and_not_in_frames(clip, monkeypatch):
    monkeypatch.setenv("RAYPIPE_BENCH_CACHE", str(clip.parent))
    copies = drawn.folder_of([clip], 3, "copies")
    assert len({c.read_bytes() for c in copies}) == 3
    assert kernels.difference(kernels.raypipe(copies[2]), kernels.raypipe(clip)) == 0


def test_the_pool_writes_the_same_kind_of_shard(clip, tmp_path):
    peers._decord_shard([clip, clip], tmp_path)
    (file,) = tmp_path.glob("*.arrow")
    reader = pa.ipc.open_file(pa.memory_map(str(file)))
    assert reader.schema.equals(MEDIA_SCHEMA)
    assert [len(r["frames"]) for r in reader.read_all().to_pylist()] == [8, 8]


def test_the_page_shows_every_figure():
    ratio = Ratio(0.5, 0.4, 0.55, 15, 1.0, 2.0, 0.6, 1.0, 2.0)
    one = figure("fast", "ours", "theirs", ratio, 0.6)
    assert one["verdict"] == "met"
    two = plain("large", "a child", 700.0, "MiB", 600)
    assert two["verdict"] == "missed"
    machine = dict.fromkeys(("cpu", "cores", "memory_gib", "python", "av", "decord", "ray"), "x")
    machine |= {"pyarrow": "x", "pillow": "x", "load_at_start": [0.1]}
    text = "\n".join(
        page.page({"date": "d", "command": "c", "machine": machine, "figures": [one, two]}, "prepare")
    )
    assert "| fast | 0.500 | 0.400 to 0.550 | 0.6 | met | 1.0 | 2.0 | 0.600 | 15 |" in text
    assert "| large | 700.0 | MiB | 600 | missed |" in text


def test_lossless_choices_lose_nothing_and_lossy_ones_do(clip):
    pictures = [rendition.Image.fromarray(np.asarray(f)) for f in kernels.raypipe(clip)[:2]]
    rows = [rendition._measured(choice, pictures) for choice in rendition.CHOICES]
    assert {r["largest_error"] == 0 for r in rows if r["chroma"] == "lossless"} == {True}
    assert all(r["mean_absolute_error"] > 0 for r in rows if r["chroma"] != "lossless")
    jpeg = [r for r in rows if r["codec"] == "jpeg" and r["chroma"] == "4:4:4"]
    assert [r["bytes"] for r in jpeg] == sorted(r["bytes"] for r in jpeg)


def test_arms_that_time_themselves_run_in_turn_and_are_compared_with_the_last():
    calls: list[str] = []

    def arm(name: str, seconds: float):
        return lambda: calls.append(name) or seconds

    first, second = timed([arm("a", 1.0), arm("b", 3.0), arm("c", 2.0)], 3)
    assert "".join(calls) == "abc" + "bca" + "cab"
    assert (first.median, first.a_s, first.b_s) == (0.5, 1.0, 2.0)
    assert (second.median, second.low, second.high, second.pairs) == (1.5, 1.5, 1.5, 3)
