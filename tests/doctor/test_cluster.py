"""The doctor and a real Ray with a token: what it says of a cluster that runs."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def findings(one_node, **more: str) -> dict[str, list[dict[str, str]]]:
    environ = {**one_node.environ, "RAY_ADDRESS": one_node.dashboard, **more}
    done = subprocess.run(
        [sys.executable, "-m", "raypipe.cli", "doctor", "--json"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found: dict[str, list[dict[str, str]]] = {}
    for row in json.loads(done.stdout)["findings"]:
        found.setdefault(row["check"], []).append(row)
    return found


def test_a_cluster_of_ours_is_well(one_node):
    found = findings(one_node)
    said = [(row["level"], row["found"]) for row in found["RAY_ADDRESS"]]
    assert [level for level, _ in said] == ["ok", "ok"], said
    assert "asks for the token" in said[0][1]
    assert "takes our token and runs Ray" in said[1][1]
    assert found["Ray token"][0]["level"] == "ok"


def test_another_token_is_told(one_node, tmp_path):
    (tmp_path / "token").write_text("c8" * 32)
    os.chmod(tmp_path / "token", 0o600)
    found = findings(one_node, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert [row["level"] for row in found["RAY_ADDRESS"]] == ["ok", "fail"]
    assert "to our token" in found["RAY_ADDRESS"][1]["found"]
