"""The verbs about runs on a cluster: what became of them, and what they said."""

from __future__ import annotations

import json
import sys

from raypipe.cli import Request, show
from raypipe.commands.arguments import one_word, whole_number
from raypipe.errors import RaypipeError, RequestError
from raypipe.settings import local


def status(request: Request) -> int:
    from raypipe.status.look import status_of
    from raypipe.status.show import render, render_many

    request.nothing_left("status", [])
    if not request.words:
        raise RequestError("status of which run?", "raypipe status RUN...")
    if len(request.words) == 1:
        found = status_of(request.words[0])
        show(found, render(found), request.json)
        return 0
    many, code = [], 0
    for word in request.words:
        try:
            many.append(status_of(word))
        except RaypipeError as fault:
            many.append({"run": local(word), "state": "unreadable", "message": fault.message})
            code = code or fault.exit_code
    show({"runs": many}, render_many(many), request.json)
    return code


def logs(request: Request) -> int:
    from raypipe.status.logs import follow, logs_of
    from raypipe.store.files import Store

    text = request.take("start")
    request.nothing_left("logs", ["start"])
    store = Store(local(one_word(request, "RUN")))
    number = None if text is None else whole_number("start", text)
    if "all" in request.flags and (number is not None or "follow" in request.flags):
        raise RequestError("--all goes with neither --start nor --follow", "leave one of them out")
    if "follow" in request.flags and request.json:
        raise RequestError("--follow prints text as it comes, which is no JSON", "leave one of them out")
    if "follow" in request.flags:
        for piece in follow(store, number):
            sys.stdout.write(piece)
            sys.stdout.flush()
        return 0
    found = logs_of(store, number, "all" in request.flags)
    if request.json:
        print(json.dumps({"run": store.root, "starts": found}, sort_keys=True))
        return 0
    for start in found:
        if len(found) > 1:
            print(f"start {start['start']}: {start.get('command', '')}")
        sys.stdout.write(start["text"])
    return 0
