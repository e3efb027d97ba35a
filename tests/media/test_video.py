"""Reading a video: one picture at a time, times, edit lists, memory, size limits, and what is no video."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from raypipe.media import video
from raypipe.media.decode import DecodeRequest
from raypipe.media.fault import MediumError
from raypipe.media.packets import OpenVideo, read_table
from raypipe.media.video import Chain, plan, read_video
from raypipe.records import MediumKind, Reason
from raypipe.settings import Rendition, Sampling
from tests.support.clips import number_of, write_clip, write_times
from tests.support.moving import digest, sequential, write_scene


def request(file: Path, **more) -> DecodeRequest:
    values = {"sampling": Sampling(), "rendition": Rendition(), **more}
    return DecodeRequest("k", MediumKind.VIDEO, str(file.parent), file.name, **values)


def table_of(file: Path):
    with OpenVideo(file, 10**8) as opened:
        return read_table(opened, video.Watch())


def test_pictures_come_one_at_a_time(tmp_path):
    file = write_scene(tmp_path / "a.mp4", "libx264", {"g": "10"}, 40)
    reader = read_video(file, request(file))
    first = next(reader)
    assert (first.position, first.time_s, first.evidence) == (0, 0.0, "clean")
    assert [p.position for p in reader] == [5, 11, 16, 22, 27, 33, 39]


def test_a_repeated_position_is_the_same_picture(tmp_path):
    file = write_clip(tmp_path / "a.mp4", 3)
    shown = list(read_video(file, request(file)))
    assert [p.position for p in shown] == [0, 0, 0, 0, 1, 1, 1, 2]
    assert len({id(p) for p in shown}) == 3


def test_chains_begin_at_starts_and_end_at_targets(tmp_path):
    file = write_scene(tmp_path / "a.mp4", "libx264", {"g": "10", "bf": "0", "sc_threshold": "0"}, 40)
    table = table_of(file)
    assert list(np.flatnonzero(table.start)) == [0, 10, 20, 30]
    assert table.planned
    assert plan(table, [3, 5, 12, 39]) == [Chain(0, (3, 5)), Chain(10, (12,)), Chain(30, (39,))]


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    file = write_scene(tmp_path / "a.mp4", "libx264", {"g": "20", "bf": "0", "sc_threshold": "0"}, 200)
    fed = []
    feed = video.Feed.__call__
    monkeypatch.setattr(video.Feed, "__call__", lambda self, packet: fed.append(packet) or feed(self, packet))
    shown = list(read_video(file, request(file, sampling=Sampling(frames=3))))
    assert [p.position for p in shown] == [0, 99, 199]
    assert sum(p is not None for p in fed) == 1 + 20 + 20


def test_frames_a_second_follow_the_times_and_not_the_numbers(tmp_path):
    file = write_times(tmp_path / "a.mkv", [0, 40, 50, 400, 990, 1000, 1010, 2500, 3000])
    shown = list(read_video(file, request(file, sampling=Sampling(policy="fps", fps=1, min_frames=1))))
    assert [number_of(p.image) for p in shown] == [0, 5, 6, 8]
    assert [p.time_s for p in shown] == pytest.approx([0, 1, 1.01, 3])


def test_keyframes_are_those_of_the_stream(tmp_path):
    file = write_scene(tmp_path / "a.mp4", "libx264", {"g": "7", "bf": "2", "sc_threshold": "0"}, 40)
    shown = list(read_video(file, request(file, sampling=Sampling(policy="keyframes", max_frames=64))))
    assert [p.position for p in shown] == [0, 7, 14, 21, 28, 35]
    few = list(
        read_video(file, request(file, sampling=Sampling(policy="keyframes", min_frames=1, max_frames=2)))
    )
    assert [p.position for p in few] == [0, 35]


def test_frames_cut_away_by_an_edit_list_do_not_count(tmp_path):
    """The edit begins at the sixth frame: players, and a plain decode, show five fewer."""
    plain = write_clip(tmp_path / "a.mp4", 30, bf="0", g="30")
    data = bytearray(plain.read_bytes())
    place = data.index(b"elst") + 4
    assert data[place] == 0  # version 0: count, duration, media time, rate
    start = int.from_bytes(data[place + 12 : place + 16], "big")
    tick = table_of(plain).pts[1] - table_of(plain).pts[0]
    data[place + 12 : place + 16] = int(start + 5 * tick).to_bytes(4, "big")
    file = tmp_path / "b.mp4"
    file.write_bytes(data)
    truth = sequential(file)
    assert len(truth) == 25
    shown = list(read_video(file, request(file)))
    assert [digest(p.image) for p in shown] == [truth[p.position] for p in shown]
    assert [number_of(p.image) for p in shown] == [p.position + 5 for p in shown]


def test_without_times_every_frame_is_decoded(tmp_path):
    """A raw stream has no times: frames are counted as they come out."""
    file = write_scene(tmp_path / "a.h264", "libx264", {"g": "12", "bf": "3"}, 40)
    assert not table_of(file).planned
    truth = sequential(file)
    shown = list(read_video(file, request(file)))
    assert [p.position for p in shown] == [0, 5, 11, 16, 22, 27, 33, 39]
    assert [digest(p.image) for p in shown] == [truth[p.position] for p in shown]


def test_a_seek_that_leads_elsewhere_is_noticed(tmp_path, monkeypatch):
    file = write_scene(tmp_path / "a.mp4", "libx264", {"g": "10", "bf": "2"}, 90)
    truth, strayed = sequential(file), []

    def astray(self, start: int) -> None:
        strayed.append(start)
        real(self, min(start + 35, 80))

    real = video.Walk._seek
    monkeypatch.setattr(video.Walk, "_seek", astray)
    shown = list(read_video(file, request(file)))
    assert strayed
    assert [digest(p.image) for p in shown] == [truth[p.position] for p in shown]


@pytest.mark.parametrize("size", [(95 - 1, 64), (66, 34), (98, 62)])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv422p10le"])
def test_odd_shapes_and_depths(tmp_path, size, pixels):
    file = write_scene(tmp_path / "a.mkv", "libx264", {"g": "5"}, 12, size, pixels)
    truth = sequential(file)
    shown = list(read_video(file, request(file)))
    assert {p.image.mode for p in shown} == {"RGB"}
    assert [digest(p.image) for p in shown] == [truth[p.position] for p in shown]


def test_decord_gives_no_frame_of_a_damaged_file(tmp_path):
    file = write_scene(tmp_path / "a.mp4", "libx264", {"g": "10"}, 40, (320, 240), header_first=True)
    whole = list(read_video(file, request(file, decoder="decord")))
    assert [p.position for p in whole] == [0, 5, 11, 16, 22, 27, 33, 39]
    data = bytearray(file.read_bytes())
    place = (data.index(b"mdat") + len(data)) // 2
    data[place : place + 4000] = np.random.default_rng(1).bytes(4000)
    file.write_bytes(data)
    with pytest.raises(MediumError) as raised:
        list(read_video(file, request(file, decoder="decord")))
    assert raised.value.reason is Reason.FRAMES_DAMAGED


def test_too_many_pixels(tmp_path):
    file = write_clip(tmp_path / "a.mp4", 2, size=(200, 100))
    for decoder in ("pyav", "decord"):
        with pytest.raises(MediumError) as raised:
            list(read_video(file, request(file, max_pixels=19_999, decoder=decoder)))
        assert raised.value.reason is Reason.VIDEO_TOO_LARGE


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediumError) as raised:
        list(read_video(tmp_path / "a.mp4", request(tmp_path / "a.mp4")))
    assert raised.value.reason is Reason.MEDIA_NO_VIDEO


PEAK = """
import json, sys
from pathlib import Path
from raypipe.media.decode import DecodeRequest
from raypipe.media.rendition import store_frame
from raypipe.media.video import read_video
from raypipe.records import MediumKind
from raypipe.settings import Rendition, Sampling
file = Path(sys.argv[1])
asked = DecodeRequest("k", MediumKind.VIDEO, str(file.parent), file.name, Sampling(), Rendition())
stored = [store_frame(p.image, asked.rendition) for p in read_video(file, asked)]
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([len(stored), int(peak.split()[1]) >> 10]))
"""


def peak_mib(file: Path) -> int:
    """Peak memory in MiB of a fresh process that decodes and stores eight frames.

    Of the process itself: getrusage would count what it was forked from.
    """
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(file)], capture_output=True, text=True, check=True, timeout=120
    )
    frames, peak = json.loads(done.stdout)
    assert frames == 8
    return peak


def test_memory_of_a_4k_clip(tmp_path):
    options = {"preset": "ultrafast", "g": "30", "bf": "2", "refs": "4", "crf": "30"}
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
        stream.codec_context.thread_count = 2
        planes = np.random.default_rng(3).integers(0, 255, (2160 * 3 // 2, 3840), np.uint8)
        planes = np.repeat(np.repeat(planes[::8, ::8], 8, 0), 8, 1)
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(np.roll(planes, number * 4, 1), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    peak = peak_mib(tmp_path / "a.mp4")
    print(f"4K: {peak} MiB")
    assert peak <= 600


def test_memory_of_two_hours(tmp_path):
    """Ten seconds of packets, written 720 times over with later times: 7,200 s, 180,000 frames of 640x360."""
    short = write_scene(
        tmp_path / "s.mp4",
        "libx264",
        {"preset": "ultrafast", "g": "250", "bf": "2"},
        250,
        (640, 360),
        rate=25,
        grain=0,
    )
    with av.open(str(short)) as source, av.open(str(tmp_path / "a.mp4"), "w") as target:
        given = source.streams.video[0]
        stream = target.add_stream_from_template(given)
        packets = [(p.pts, p.dts, p.is_keyframe, bytes(p)) for p in source.demux(given) if p.size]
        step = 300 * (packets[-1][1] - packets[0][1]) // 299
        for turn in range(120):
            for pts, dts, key, data in packets:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.is_keyframe = pts + turn * step, dts + turn * step, key
                packet.stream, packet.time_base = stream, given.time_base
                target.mux(packet)
    peak = peak_mib(tmp_path / "a.mp4")
    print(f"two hours: {peak} MiB, {(tmp_path / 'a.mp4').stat().st_size >> 20} MiB of file")
    assert peak <= 600
