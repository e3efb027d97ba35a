"""What the tests of models share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(originals, tmp_path) -> Path:
    """The whole checkpoint, to be tampered with."""
    return Path(shutil.copytree(originals.whole, tmp_path / "copied"))
