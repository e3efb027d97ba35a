"""The verbs about a cluster and what runs on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from raypipe.cli import VERBS, Request
from raypipe.commands.arguments import whole_number
from raypipe.errors import RequestError


def submit(request: Request) -> int:
    from raypipe.submit.dashboard import Dashboard, address_of
    from raypipe.submit.order import order
    from raypipe.submit.run import Followed, Submitter

    address, python, retries = (request.take(n) for n in ("address", "python", "retries"))
    detach = [request.take(n) for n in ("detach", "no_wait")] != [None, None]
    if not request.words:
        raise RequestError("submit which verb?", "raypipe submit VERB [yaml] [key=value ...]")
    root = Path.cwd()
    wanted = order(request.words[0], request.words[1:], request.settings, list(VERBS), root)
    out = sys.stderr if request.json else sys.stdout
    submitter = Submitter(
        Dashboard(address_of(address)),
        wanted,
        root,
        show=lambda text: print(text, end="", file=out, flush=True),
        note=lambda text: print(f"submit: {text}", file=sys.stderr, flush=True),
        python=python or "python",
    )
    done = submitter.run(0 if retries in (None, "0") else whole_number("retries", retries), detach)
    result: dict[str, Any] = {
        "address": submitter.cluster.address,
        "run": wanted.out,
        "submission_id": done.submission_id,
    }
    if isinstance(done, Followed):
        result |= {"status": "SUBMITTED", "exit_code": None, "attempts": 0 if done.joined else 1}
        print(json.dumps(result, sort_keys=True) if request.json else f"{wanted.command} follows it")
        return 0
    result |= {"status": done.status, "exit_code": done.exit_code, "attempts": done.attempts}
    if request.json:
        print(json.dumps(result, sort_keys=True))
    error = done.error(wanted.command)
    if error is not None:
        raise error
    return 0
