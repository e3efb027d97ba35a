"""A local cluster as ``connected()`` starts it, and what it lets in: one JSON object on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from raypipe.chaos.processes import family
from raypipe.cluster import connected
from tests.support.doors import PUBLIC, answered, doors, mode, open_routes, refused, status
from tests.support.ray_routes import declared

WRONG = {"none": None, "wrong": "00" * 32}


def look(mark: str) -> dict[str, Any]:
    import ray

    token = Path("~/.ray/auth_token").expanduser()
    node = ray._private.worker._global_node
    found = doors(p.pid for p in family(mark))
    known = declared()
    methods = [m for many in known["grpc"].values() for m in many]
    head = next(d for d in found if d.port == int(node.webui_url.rpartition(":")[2]))
    is_open = [str(r) for r in open_routes(head, known["head"], WRONG) if r not in PUBLIC]
    closed = []
    for door in found:
        http = {code for code in (status(door, "POST", "/x"), status(door, "GET", "/metrics")) if code}
        if not http:
            is_open += [f"{door.process}: {m}" for m in answered(door, methods)]
            closed += [door.process] * bool(refused(door, methods))
    return {
        "doors": [{**vars(d), "loopback": d.loopback} for d in found],
        "modes": {
            "token": mode(token),
            "its folder": mode(token.parent),
            "session": mode(node.get_session_dir_path()),
        },
        "open": is_open,
        "refused": closed,
        "let in": status(head, "GET", "/api/jobs/", token.read_text()),
    }


if __name__ == "__main__":
    with connected(quiet=True):
        print(json.dumps(look(sys.argv[1])))
