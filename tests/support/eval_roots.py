"""Made-up eval roots in the reference's layout, one small benchmark each, written by the tests."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import tests.support
from tests.support.case import Case
from tests.support.eval_root_files import (
    GQA_ROWS,
    ONE_WORD,
    POPE_ROWS,
    VIDEO_FOLDERS,
    gqa,
    pope,
    scienceqa,
    video_qa,
    write_json,
    write_lines,
)

__all__ = ["CASES", "GQA_ROWS", "POPE_ROWS", "made_up", "write_json", "write_lines"]

# By name, or name:split where a benchmark has several question sets; more are found in eval_root_*.py.
CASES: dict[str, Case] = {
    **{name: Case(video_qa, "what is he doing", "running") for name in VIDEO_FOLDERS},
    "pope": Case(pope, f"Is there a kite in the image?{ONE_WORD}", "yes", "No, there is none."),
    "gqa": Case(gqa, f"Is it overcast?{ONE_WORD}", "no", "Yes"),
    "scienceqa": Case(
        scienceqa,
        "Which sinks?\nA. cork\nB. iron\nAnswer with the option's letter from the given choices directly.",
        "B",
        "A",
    ),
}
for _module in pkgutil.iter_modules(tests.support.__path__, f"{tests.support.__name__}."):
    if _module.name.rpartition(".")[2].startswith("eval_root_"):
        CASES |= getattr(importlib.import_module(_module.name), "CASES", {})


def made_up(root: Path, name: str) -> Path:
    """Writes the made-up data of a benchmark (``name`` or ``name:split``) below ``root``; returns it."""
    CASES[name].write(root, name.partition(":")[0])
    return root
