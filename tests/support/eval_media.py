"""Eval roots with real media: two clips of open questions and two images of yes-or-no questions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from raypipe.settings import EvaluateSettings
from tests.support.clips import write_clip, write_image
from tests.support.eval_roots import made_up

VIDEOS = "GPT_Zero_Shot_QA/MSVD_Zero_Shot_QA/videos"
IMAGES = "pope/val2014"


def eval_root(root: Path) -> Path:
    """msvd_qa (three questions on two clips) and pope (five questions on two images), with their media."""
    made_up(root, "msvd_qa")
    made_up(root, "pope")
    shutil.rmtree(root / VIDEOS)
    write_clip(root / VIDEOS / "a.mp4", frames=12)
    write_clip(root / VIDEOS / "b.mp4", frames=15)
    write_image(root / IMAGES / "kite.jpg", 341)
    write_image(root / IMAGES / "cook.jpg", 682)
    return root


def asking(root: Path, model: Path, out: Path, **more: Any) -> EvaluateSettings:
    values: dict[str, Any] = {
        "model": str(model),
        "eval_root": str(root),
        "out": str(out),
        "benchmarks": ["msvd_qa", "pope"],
        "max_new_tokens": 5,
        "precision": "fp32",
        "media_per_unit": 1,
    }
    return EvaluateSettings(**{**values, **more})
