"""Every codec in every container: a sampled frame is, bit for bit, the frame of a plain sequential decode."""

import random
from collections import Counter
from pathlib import Path

import pytest

from raypipe.media.decode import DecodeRequest
from raypipe.media.video import read_video
from raypipe.records import MediumKind
from raypipe.settings import Rendition, Sampling
from tests.support.moving import digest, sequential, write_scene

FRAMES = 60
X265 = "log-level=none:pools=none:frame-threads=1"


def interlaced(context) -> None:
    context.flags |= 0x00040000 | 0x20000000  # interlaced DCT and motion estimation


# name: encoder, pixel format, options, containers
CODECS = {
    "h264_b": ("libx264", "yuv420p", {"bf": "3"}, "mp4 mov mkv avi ts flv"),
    "h264_no_b": ("libx264", "yuv420p", {"bf": "0"}, "mp4 mkv avi ts"),
    "h264_open": ("libx264", "yuv420p", {"bf": "4", "x264-params": "open-gop=1:bframes=4"}, "mp4 mkv ts"),
    "h264_refresh": ("libx264", "yuv420p", {"x264-params": "intra-refresh=1"}, "mp4 mkv"),
    "h264_interlaced": ("libx264", "yuv420p", {"x264-params": "tff=1"}, "mp4 mkv ts"),
    "h264_slices": ("libx264", "yuv420p", {"x264-params": "slices=4:bframes=2"}, "mp4"),
    "h264_10": ("libx264", "yuv420p10le", {}, "mp4"),
    "h264_422": ("libx264", "yuv422p", {}, "mp4"),
    "h264_444": ("libx264", "yuv444p", {}, "mkv"),
    "h264_cavlc": ("libx264", "yuv420p", {"profile": "baseline"}, "mp4 flv"),
    "hevc": ("libx265", "yuv420p", {"x265-params": X265}, "mp4 mkv ts"),
    "hevc_closed": ("libx265", "yuv420p10le", {"x265-params": X265 + ":open-gop=0"}, "mov"),
    "vp9": (
        "libvpx-vp9",
        "yuv420p",
        {"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8", "b": "200k"},
        "webm mp4",
    ),
    "vp9_444": ("libvpx-vp9", "yuv444p", {"cpu-used": "8", "deadline": "realtime"}, "webm"),
    "vp8": (
        "libvpx",
        "yuv420p",
        {"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "8", "b": "200k"},
        "webm",
    ),
    "av1": ("libsvtav1", "yuv420p", {"preset": "12", "svtav1-params": "lp=1"}, "mp4 webm"),
    "mpeg4": ("mpeg4", "yuv420p", {"bf": "2", "q": "4"}, "mp4 avi mkv"),
    "mpeg2": ("mpeg2video", "yuv420p", {"bf": "2"}, "ts mkv mpg"),
    "mjpeg": ("mjpeg", "yuvj420p", {}, "avi mov"),
    "gif": ("gif", "rgb8", {}, "gif"),
    "prores": ("prores_ks", "yuv422p10le", {}, "mov"),
    "prores_alpha": ("prores_ks", "yuva444p10le", {"profile": "4"}, "mov"),
    "flv1": ("flv", "yuv420p", {}, "flv"),
    "wmv2": ("wmv2", "yuv420p", {}, "asf avi"),
    "ffv1": ("ffv1", "yuv420p", {}, "mkv"),
}
CASES = [
    (name, container, gop)
    for name, (*_, containers) in CODECS.items()
    for container in containers.split()
    for gop in ((5, 30, 1000) if name not in ("gif", "mjpeg", "prores", "prores_alpha") else (5,))
]
compared: Counter[str] = Counter()


def asked(file: Path, sampling: Sampling, decoder: str = "pyav") -> DecodeRequest:
    return DecodeRequest("k", MediumKind.VIDEO, str(file.parent), file.name, sampling, Rendition(), decoder)


@pytest.mark.parametrize(("name", "container", "gop"), CASES)
def test_frames_are_those_of_a_sequential_decode(tmp_path, name, container, gop, monkeypatch):
    encoder, pixels, options, _ = CODECS[name]
    setup = interlaced if name == "h264_interlaced" else (lambda context: None)
    file = tmp_path / f"a.{container}"
    write_scene(file, encoder, {"g": str(gop), **options}, FRAMES, pixels=pixels, setup=setup)
    truth = sequential(file)
    assert len(truth) >= FRAMES - 2
    dice = random.Random(f"{name}{container}{gop}")
    wanted = {
        "8": Sampling(),
        "32": Sampling(frames=32),
        "fps": Sampling(policy="fps", fps=dice.choice([1.7, 3, 5.5]), max_frames=16),
        "keyframes": Sampling(policy="keyframes", max_frames=6),
        "random": sorted(dice.sample(range(len(truth)), 6)),
    }
    for policy, sampling in wanted.items():
        if isinstance(sampling, list):
            monkeypatch.setattr("raypipe.media.video.choose", lambda *_, s=sampling: tuple(s))
            sampling = Sampling()
        shown = list(read_video(file, asked(file, sampling)))
        assert shown
        wrong = [p.position for p in shown if digest(p.image) != truth[p.position]]
        assert not wrong, f"{policy}: frames {wrong} differ"
        assert [p.position for p in shown] == sorted(p.position for p in shown)
        assert {p.evidence for p in shown} == {"clean"}
        compared[name] += len(shown)


def test_enough_frames_were_compared(request):
    if request.session.testscollected < len(CASES):
        pytest.skip("only a part of the matrix ran")
    print(f"{compared.total()} frames compared")
    assert compared.total() >= 2000
