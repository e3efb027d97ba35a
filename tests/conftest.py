"""Fixtures of the whole session. Nothing is skipped here."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.support.originals import Originals

pytest_plugins = ["tests.support.s3", "tests.support.one_node", "tests.support.told"]

# Whose cluster, proxy, account or key the shell names is nothing to the tests. They go before the session's
# own servers start, which is too early for a fixture.
FOREIGN = (
    *("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"),
    *("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "OPENAI_API_KEY"),
)
for _name in [name for name in os.environ if name in FOREIGN or name.lower().endswith("_proxy")]:
    del os.environ[_name]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only wait for each other
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # trainings here take seconds: two are long
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell says to what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests press Ctrl-C, in here and in children

# The same examples each time, and no example is too slow: what else the machine does is no fault of the code.
hypothesis.settings.register_profile(
    "raypipe",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("raypipe")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which reference data are not there, and how many tests were skipped for it."""
    reasons = (report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, times in sorted(Counter(r for r in reasons if "reference data" in r).items()):
        terminalreporter.write_line(f"{times} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights in the Hugging Face layout; do not change it."""
    from tests.support.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    """Tiny checkpoints in the original layouts; do not change them."""
    from tests.support.originals import write_originals

    return write_originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One local Ray for all tests marked engine."""
    from raypipe.cluster import connected

    with connected(quiet=True, dashboard=False):
        yield
