"""Checkpoints in the original layouts, written once."""

import shutil
from pathlib import Path

import pytest

from tests.support.originals import Originals, write_originals


@pytest.fixture(scope="session")
def originals(tmp_path_factory) -> Originals:
    return write_originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture
def copied(originals, tmp_path) -> Path:
    """The whole checkpoint, to be tampered with."""
    return Path(shutil.copytree(originals.whole, tmp_path / "copied"))
