"""The verbs of cluster work."""

from __future__ import annotations

import sys

from raypipe.cli import Request, show
from raypipe.commands.arguments import whole_number
from raypipe.errors import RequestError


def chaos(request: Request) -> int:
    from raypipe.chaos.run import chaos as run
    from raypipe.chaos.run import exit_code, render

    out, faults, sample, seed = (request.take(name) for name in ("out", "faults", "sample", "seed"))
    if seed is None or not seed.isdecimal():
        raise RequestError(
            "chaos needs --seed N, a whole number: the same one does the same harm at the same places",
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
