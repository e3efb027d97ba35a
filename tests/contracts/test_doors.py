"""What a cluster of ours lets in without its token: a login page, health checks and metrics, no more.

Routes and methods are read from Ray's own tables, so that a newer Ray is asked about all it has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid

import pytest

from raypipe.chaos.processes import family
from tests.support import ROOT
from tests.support.doors import (
    PUBLIC,
    REFUSED,
    Door,
    answered,
    doors,
    is_metrics,
    open_routes,
    refused,
    status,
)
from tests.support.one_node import TOKEN
from tests.support.ray_routes import declared

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
SERVERS = ("gcs/gcs_server", "raylet/raylet", "ray.util.client.server")
WRONG = {"none": None, "wrong": "00" * 32, "empty": " "}


def test_what_is_read_of_ray_is_all_of_it():
    known = declared()
    changing = {tuple(route) for route in known["head"] if route[0] != "GET"}
    assert {("POST", "/api/jobs/"), ("DELETE", "/api/jobs/{job_or_submission_id}")} < changing
    assert ("PUT", "/api/packages/{protocol}/{package_name}") in changing
    assert len(known["head"]) > 50
    assert len(known["agent"]) > 4
    services = {"ray.rpc.JobInfoGcsService", "ray.rpc.InternalKVGcsService", "ray.rpc.NodeManagerService"}
    assert services < known["grpc"].keys()
    assert sum(map(len, known["grpc"].values())) > 100


@pytest.fixture(scope="module")
def all_doors(one_node) -> list[Door]:
    """Those of the whole cluster: its processes come up one after another."""
    mark = next(f"{k}={v}" for k, v in one_node.environ.items() if k == "RAYPIPE_TEST_MARK")
    metrics = int(one_node.metrics.rpartition(":")[2].partition("/")[0])
    deadline = time.monotonic() + 90
    while True:
        found = doors(p.pid for p in family(mark))
        up = metrics in {d.port for d in found}
        if up and all(any(name in d.process for d in found) for name in SERVERS):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_every_route_of_the_dashboard_asks_for_the_token(one_node, all_doors):
    dashboard = next(d for d in all_doors if d.port == int(one_node.dashboard.rpartition(":")[2]))
    assert status(dashboard, "GET", "/api/jobs/", TOKEN) == 200  # the right one is let in
    found = open_routes(dashboard, declared()["head"], WRONG)
    assert found.keys() <= PUBLIC, found


def test_every_port_asks_for_the_token(all_doors):
    """But for metrics, which whoever reaches the port may read."""
    known, spoke, wrong = declared(), set(), []
    methods = [m for many in known["grpc"].values() for m in many]
    for door in all_doors:
        if not door.loopback:
            wrong.append((door, "listens beyond this machine"))
        http = {code for code in (status(door, "POST", "/x"), status(door, "GET", "/metrics")) if code}
        if http <= {200, 405} and is_metrics(door):
            spoke.add("metrics")
        elif http:
            spoke.add("http")
            found = open_routes(door, known["agent"], WRONG)
            wrong += [(door, route, said) for route, said in found.items() if route not in PUBLIC]
            wrong += [(door, "HTTP", http)] * (not http <= {*REFUSED})
        else:
            found = {token: answered(door, methods, token) for token in WRONG.values()}
            wrong += [(door, token, said) for token, said in found.items() if said]
            spoke |= {door.process} if refused(door, methods) else set()
    assert wrong == []
    assert {"metrics", "http"} < spoke
    for name in SERVERS:
        assert any(name in process for process in spoke), spoke


def test_the_gcs_lets_the_right_token_in(all_doors):
    door = next(d for d in all_doors if "gcs_server" in d.process)
    reading = ["/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"]
    assert answered(door, reading, TOKEN) == {reading[0]: "OK"}
    assert answered(door, reading) == {}
    assert refused(door, reading) == 1


def test_a_local_cluster_is_for_its_user_alone(tmp_path):
    """That of ``connected()``: on loopback, with a token of its own user, its folder closed to others."""
    mark = f"RAYPIPE_TEST_MARK={uuid.uuid4().hex}"
    said = subprocess.run(
        [sys.executable, "-m", "tests.support.local_cluster", mark],
        cwd=ROOT,
        env=_fresh(tmp_path, mark),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert said.returncode == 0, said.stderr[-3000:]
    found = json.loads(said.stdout.splitlines()[-1])
    assert [d for d in found["doors"] if not d["loopback"]] == []
    assert len(found["doors"]) >= 4
    assert found["modes"] == {
        "token": "-rw-------",
        "its folder": "drwx------",
        "session": "drwx------",
    }
    assert found["open"] == []
    assert found["let in"] == 200
    assert any("gcs_server" in name for name in found["refused"])


def _fresh(home, mark: str) -> dict[str, str]:
    """An environment in which the user has no token yet."""
    name, value = mark.split("=")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), name: value}
