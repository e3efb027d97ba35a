"""The decoding kernel against its peers in this process, and the memory of the decode child."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import drawn, kernels
from bench.figure import Figure, figure, plain
from bench.pairs import RESAMPLES, paired, verdict
from bench.tree import descendants, peak_mib
from raypipe.media.decode import DecodeRequest
from raypipe.media.sandbox import Sandbox
from raypipe.records import Medium, MediumKind
from raypipe.settings import DecodeLimits, Rendition, Sampling

ALIKE = 4.0  # mean steps of 255: decoders may convert colours in their own way, but must show the same frame
MEMORY_MIB = 600


def long_gop(pairs: int) -> Iterator[Figure]:
    """60 s of 720p with B-frames and a long GOP, against decord: of a camera, and drawn with much grain."""
    for name, origin, file in (
        ("long_gop", "camera footage", drawn.footage(250)),
        ("long_gop_drawn", "drawn, with grain", drawn.LONG.file()),
    ):
        if file is None:
            continue
        apart = _same(kernels.raypipe(file), kernels.decord_batch(file))
        ratio = paired(partial(kernels.raypipe, file), partial(kernels.decord_batch, file), pairs)
        what = f"raypipe: 8 frames, 60 s 1280x720 H.264, B-frames, GOP 250 ({origin})"
        yield figure(name, what, "decord get_batch, 1 thread", ratio, 0.60, difference=apart)


def short_gop(pairs: int) -> Iterator[Figure]:
    """The same with a GOP of 30, against the fastest peer that is installed."""
    file = drawn.SHORT_GOP.file()
    mine = kernels.raypipe(file)
    costs, apart = {}, {}
    for name, peer in kernels.peers().items():
        apart[name] = _same(mine, peer(file))
        started = time.process_time()
        peer(file)
        costs[name] = round(time.process_time() - started, 3)
    fastest = min(costs, key=lambda name: costs[name])
    ratio = paired(lambda: kernels.raypipe(file), lambda: kernels.peers()[fastest](file), pairs)
    what = "raypipe: 8 frames, 60 s 1280x720 H.264, B-frames, GOP 30"
    yield figure(
        "short_gop",
        what,
        f"{fastest} (fastest peer)",
        ratio,
        1.05,
        peers_once_s=costs,
        differences=apart,
    )


def real_clips(pairs: int) -> Iterator[Figure]:
    """Real and drawn clips of every kind against decord: the geometric mean of the clips' medians."""
    files = [("real", f) for f in drawn.real_videos()] + [("drawn", k.file()) for k in drawn.KINDS]
    clips, left_out, ratios = [], [], []
    for origin, file in files:
        try:
            theirs = kernels.decord_batch(file)
        except Exception as fault:  # decord raises what it likes
            left_out.append({"clip": file.name, "why": f"decord cannot read it ({type(fault).__name__})"})
            continue
        apart = round(kernels.difference(kernels.raypipe(file), theirs), 3)
        ratio = paired(lambda f=file: kernels.raypipe(f), lambda f=file: kernels.decord_batch(f), pairs)
        ratios.append(ratio)
        row = {"clip": file.name, "origin": origin, "difference": apart}
        clips.append({**row, "ratio": round(ratio.median, 3), "raypipe_s": ratio.a_s, "decord_s": ratio.b_s})
    logs = np.log([r.median for r in ratios])
    rng = np.random.default_rng(0)
    # Of these clips: pairs resampled within each. And of others like them: the clips resampled.
    within = [np.median(rng.choice(r.ratios, (RESAMPLES, len(r.ratios))), axis=1) for r in ratios]
    low, high = np.exp(np.quantile(np.log(within).mean(axis=0), [0.025, 0.975]))
    clips_low, clips_high = np.exp(
        np.quantile(rng.choice(logs, (RESAMPLES, len(logs))).mean(axis=1), [0.025, 0.975])
    )
    real = [np.log(c["ratio"]) for c in clips if c["origin"] == "real"]
    yield {
        "name": "real_clips",
        "a": f"raypipe: 8 frames of {len(clips)} real and drawn clips, geometric mean",
        "b": "decord get_batch, 1 thread",
        "median": round(float(np.exp(logs.mean())), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "pairs": pairs,
        "a_s": round(sum(r.a_s for r in ratios), 3),
        "b_s": round(sum(r.b_s for r in ratios), 3),
        "target": 0.70,
        "verdict": verdict(float(low), float(high), 0.70),
        "interval_over_clips": [round(float(clips_low), 4), round(float(clips_high), 4)],
        "real_only": round(float(np.exp(np.mean(real))), 4) if real else None,
        "clips": clips,
        "left_out": left_out,
    }


def memory(pairs: int) -> Iterator[Figure]:
    """The most memory the decode child has resident: two hours of video, and 4K."""
    for name, what, file in (
        ("memory_two_hours", "two hours of 640x360 H.264", drawn.two_hours()),
        ("memory_4k", "60 frames of 3840x2160 H.264", drawn.FOUR_K.file()),
    ):
        started = time.perf_counter()
        value = _child_peak_mib(file)
        yield plain(
            name,
            f"decode child, {what}",
            value,
            "MiB",
            MEMORY_MIB,
            wall_s=round(time.perf_counter() - started, 2),
        )


def _same(a: list[Any], b: list[Any]) -> float:
    apart = kernels.difference(a, b)
    if apart > ALIKE:
        raise AssertionError(f"the arms show other frames: {apart:.1f} of 255 apart")
    return round(apart, 3)


def request_of(file: Path, rendition: Rendition | None = None) -> DecodeRequest:
    """A file as a prepare run asks for it."""
    return DecodeRequest(
        key=file.stem,
        kind=MediumKind.VIDEO,
        root=str(file.parent),
        path=file.name,
        sampling=Sampling(),
        rendition=rendition or Rendition(),
    )


def _child_peak_mib(file: Path) -> float:
    before = descendants(os.getpid())
    with Sandbox(DecodeLimits()) as sandbox:
        made = sandbox.decode(request_of(file))
        if not isinstance(made, Medium):
            raise AssertionError(f"{file.name}: {made}")
        return max(peak_mib(pid) for pid in descendants(os.getpid()) - before)
