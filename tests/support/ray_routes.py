"""Every HTTP route and gRPC method that Ray's own modules declare, read from their tables.

    python -m tests.support.ray_routes      JSON on stdout

In a process of its own: importing all of the dashboard's modules is nothing a test process needs.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from functools import cache
from typing import Any

from tests.support import ROOT


@cache
def declared() -> dict[str, Any]:
    """``head``, ``agent``: [method, path] of HTTP; ``grpc``: full names of methods by service."""
    command = [sys.executable, "-m", "tests.support.ray_routes"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=True)
    return json.loads(said.stdout.splitlines()[-1])


def _read() -> dict[str, Any]:
    import ray.core.generated
    import ray.dashboard.http_server_agent
    import ray.dashboard.http_server_head
    import ray.dashboard.modules
    from ray.dashboard import optional_utils
    from ray.dashboard.subprocesses.routes import SubprocessRouteTable

    for module in pkgutil.walk_packages(ray.dashboard.modules.__path__, "ray.dashboard.modules."):
        if ".tests" not in module.name:
            importlib.import_module(module.name)
    head = _routes(optional_utils.DashboardHeadRouteTable) | _routes(SubprocessRouteTable)
    agent = _routes(optional_utils.DashboardAgentRouteTable)
    return {"head": sorted(head), "agent": sorted(agent), "grpc": _grpc(ray.core.generated)}


def _routes(table: Any) -> set[tuple[str, str]]:
    return {(method, path) for method, paths in table._bind_map.items() for path in paths}


def _grpc(package: Any) -> dict[str, list[str]]:
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("_pb2"):
            described = importlib.import_module(f"{package.__name__}.{module.name}").DESCRIPTOR
            for service in described.services_by_name.values():
                found[service.full_name] = [f"/{service.full_name}/{m.name}" for m in service.methods]
    return found


if __name__ == "__main__":
    print(json.dumps(_read()))
