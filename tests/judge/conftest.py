import pytest

from raypipe.judge import governor


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(governor, "BACKOFF_S", 0.01)
