"""What several verbs do with their words and settings, and with their results."""

from __future__ import annotations

import os
from typing import Any

from raypipe.cli import Request, show
from raypipe.errors import RequestError
from raypipe.settings import local

MOST_DIGITS = 18  # of a number that is typed: more are a slip, and Python refuses thousands


def show_scores(result: dict[str, Any], out: str, as_json: bool) -> None:
    from raypipe.report.listing import evaluation_text

    show({"out": local(out), **result}, evaluation_text(result, out), as_json)


def share(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        raise RequestError(f"'{text}' is not a share between 0 and 1", "0.99, for example") from None


def print_report(report: dict[str, Any]) -> None:
    from raypipe.report.table import render

    print(render(report))


def whole_number(name: str, text: str | None) -> int:
    if text is None or not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < 1:
        shown = text if text is None or len(text) <= MOST_DIGITS else f"{text[:8]}..."
        raise RequestError(f"{name}={shown} is not a whole number of at least 1", f"{name}=3, for example")
    return int(text)


def one_word(request: Request, what: str) -> str:
    if len(request.words) != 1:
        remedy = f"{what} is the out= folder of a run, here or at s3://bucket/prefix"
        raise RequestError(f"give exactly one {what}", remedy)
    return request.words[0]


def wants_dashboard() -> bool:
    """The dashboard of a local cluster can be turned off; starting it costs some seconds and memory."""
    return os.environ.get("RAYPIPE_DASHBOARD", "1") != "0"
