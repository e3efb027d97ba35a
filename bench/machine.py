"""What a figure was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = (
    "raypipe",
    "av",
    "decord",
    "ray",
    "pyarrow",
    "pillow",
    "numpy",
    "torch",
    "transformers",
    "deepspeed",
)


def facts() -> dict[str, object]:
    """Processor, cores, versions and the load of the machine as it is now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "load_at_start": [round(x, 2) for x in os.getloadavg()],
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
