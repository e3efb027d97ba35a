"""One drawn and prepared run for the tests of verify; each test gets a copy to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.prepared import drawn_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_run(tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))
