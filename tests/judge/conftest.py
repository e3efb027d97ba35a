from pathlib import Path

import pytest

from raypipe.judge import governor
from raypipe.store.files import Store


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(governor, "BACKOFF_S", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))
