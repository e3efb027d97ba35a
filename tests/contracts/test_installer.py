"""What installs for ``make test-cluster`` never ends it: the tests themselves say why they are skipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

SCRIPT = (ROOT / "tests/cluster/install.sh").read_text(encoding="utf-8")
PACKAGES = {"util-linux", "iproute2", "openssh-server", "openssh-client", "rsync", "prometheus"}


def installed(folder: Path, apt: str | None, user: int = 0) -> tuple[int, str, list[str]]:
    """Exit code, what was said, and the calls of an apt-get, on a machine that has none of the packages."""
    tools, policy = folder / "bin", folder / "policy-rc.d"
    tools.mkdir()
    for name in ("rm", "chmod"):
        (tools / name).symlink_to(shutil.which(name) or "")
    fakes = {"id": f"echo {user}", "apt-get": apt and f'echo "$@" >> {folder}/calls\n{apt}'}
    for name, body in fakes.items():
        if body:
            (tools / name).write_text(f"#!/bin/sh\n{body}\n")
            (tools / name).chmod(0o755)
    script = SCRIPT.replace("/usr/local/sbin:/usr/sbin:/sbin", str(tools))
    script = script.replace("/usr/sbin/policy-rc.d", str(policy))
    assert "/usr/" not in script
    done = subprocess.run(
        [shutil.which("sh") or "", "-c", script], env={"PATH": str(tools)}, capture_output=True, text=True
    )
    assert not policy.exists()
    calls = folder / "calls"
    return done.returncode, done.stdout, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize(("apt", "user"), [(None, 0), ("exit 0", 1000)], ids=["no apt-get", "not root"])
def test_what_cannot_be_installed_is_named(tmp_path: Path, apt: str | None, user: int) -> None:
    code, said, calls = installed(tmp_path, apt, user)
    assert (code, calls) == (0, [])
    assert said.startswith("missing: ")
    assert set(said.partition("apt-get install ")[2].split()) == PACKAGES


@pytest.mark.parametrize(
    "apt", ["exit 0", "exit 100", '[ "$1" = install ]'], ids=["works", "fails", "no lists"]
)
def test_each_package_is_tried_and_the_tests_go_on(tmp_path: Path, apt: str) -> None:
    code, said, calls = installed(tmp_path, apt)
    assert code == 0
    assert {call.split()[-1] for call in calls if call.startswith("install ")} == PACKAGES
    assert ("not installed: prometheus." in said) == (apt == "exit 100")
    assert ("apt-get update failed" in said) == (apt != "exit 0")
