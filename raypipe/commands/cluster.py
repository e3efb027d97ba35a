"""The verbs about clusters and runs on them: files, jobs, what became of runs, what they said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from raypipe.cli import FLAGS_OF, VERBS, Request, show
from raypipe.commands.arguments import MOST_DIGITS, one_word, whole_number
from raypipe.errors import RaypipeError, RequestError, nearest
from raypipe.redaction import redact, redact_all
from raypipe.settings import local


def cluster(request: Request) -> int:
    from raypipe.cluster_files.check import check
    from raypipe.cluster_files.show import text

    request.nothing_left("cluster", [])
    words = request.words
    if not words or words[0] != "check":
        said = f"cluster has no command '{words[0]}'" if words else "cluster needs a command"
        raise RequestError(said, nearest(words[0], ["check"]) if words else "raypipe cluster check FILE")
    if len(words) != 2:
        raise RequestError("cluster check takes one file", "raypipe cluster check cluster.yaml")
    code, result = check(words[1])
    show(result, text(result), request.json)
    return code


def status(request: Request) -> int:
    from raypipe.status.look import status_of
    from raypipe.status.show import render, render_many

    request.nothing_left("status", [])
    if not request.words:
        raise RequestError("status of which run?", "raypipe status RUN...")
    if len(request.words) == 1:
        found = redact_all(status_of(request.words[0]))
        show(found, render(found), request.json)
        return 0
    many, faults = [], []
    for word in request.words:
        try:
            many.append(status_of(word))
        except RaypipeError as fault:
            told = {"run": local(word), "state": "unreadable", "message": fault.message, "next": fault.remedy}
            many.append(told)
            faults.append(fault)
    many = redact_all(many)
    show({"runs": many}, render_many(many), request.json)
    if faults:
        raise faults[0]  # the table has them all
    return 0


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
        print(json.dumps({"run": redact(store.root), "starts": found}, sort_keys=True))
        return 0
    for start in found:
        if len(found) > 1:
            print(f"start {start['start']}: {start['command'] or 'its record does not tell the command'}")
        sys.stdout.write(start["text"])
    return 0


def submit(request: Request) -> int:
    from raypipe.submit.dashboard import Dashboard, address_of
    from raypipe.submit.order import order
    from raypipe.submit.run import Followed, Submitter

    address, python, retries = (request.take(n) for n in ("address", "python", "retries"))
    detach = bool(request.flags & {"detach", "no_wait"})
    if not request.words:
        raise RequestError("submit which verb?", "raypipe submit VERB [yaml] [key=value ...]")
    root = Path.cwd()
    verb, *words = request.words
    flags = [f"--{name}" for name in FLAGS_OF.get(verb, ()) if name in request.flags]
    wanted = order(verb, words, request.settings, list(VERBS), root, flags)
    out = sys.stderr if request.json else sys.stdout
    submitter = Submitter(
        Dashboard(address_of(address)),
        wanted,
        root,
        show=lambda text: print(text, end="", file=out, flush=True),
        note=lambda text: print(redact(f"submit: {text}"), file=sys.stderr, flush=True),
        python=python or "python",
    )
    done = submitter.run(0 if retries in (None, "0") else whole_number("retries", retries), detach)
    result: dict[str, Any] = {
        "address": submitter.cluster.address,
        "run": wanted.out,
        "logs": wanted.out and f"{wanted.out.rstrip('/')}/logs",
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


def chaos(request: Request) -> int:
    from raypipe.chaos.run import chaos as run
    from raypipe.chaos.run import exit_code, render

    out, faults, sample, seed = (request.take(name) for name in ("out", "faults", "sample", "seed"))
    if seed is None or not seed.isdecimal() or len(seed) > MOST_DIGITS:
        raise RequestError(
            f"chaos needs --seed N, a whole number of at most {MOST_DIGITS} digits: the same one does the "
            "same harm at the same places",
            "raypipe chaos CONFIG --seed 1",
        )
    result = run(
        request.yaml(required=not request.settings),
        request.settings,
        seed=int(seed),
        out=out,
        faults=faults,
        sample=whole_number("sample", sample) if sample is not None else None,
        tell=lambda line: print(f"chaos: {line}", file=sys.stderr, flush=True),
    )
    show(result, render(result), request.json)
    return exit_code(result)
