"""The verbs about a cluster."""

from __future__ import annotations

from raypipe.cli import Request, show
from raypipe.errors import RequestError, nearest


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
