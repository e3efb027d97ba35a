"""Shared by the tests: where the reference data lies, when it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def reference_data(name: str) -> Path:
    """A folder of the reference data (``golden`` or ``real``); skips the test where it is absent."""
    own = f"RAYPIPE_{name.upper()}"
    base = Path(os.environ.get("RAYPIPE_REFERENCE_DATA", ROOT.parent / "shared" / "data"))
    folder = Path(os.environ.get(own, base / name))
    if not folder.is_dir():
        pytest.skip(f"reference data '{name}' is not at {folder} ({own} names it)")
    return folder
