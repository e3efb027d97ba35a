"""What the starts of a run have said: once, or as long as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from raypipe.store.files import Store
from raypipe.store.recording import CUT
from raypipe.store.starts import RUNNING, start_of_number, starts_of, text_of

LOCAL_S, REMOTE_S = 1.0, 10.0  # between looks while following


def logs_of(store: Store, number: int | None, every: bool) -> list[dict[str, Any]]:
    """The records of starts with their ``text``; the newest start, one by its number, or all.

    Raises:
        RequestError: there is no such start.
    """
    newest = start_of_number(store, number)
    chosen = starts_of(store) if every else [newest]
    return [
        {**start.row, "start": start.number, "command": start.text("command"), "text": text_of(store, start)}
        for start in chosen
    ]


def follow(store: Store, number: int | None, wait: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Pieces of a start's text as they come, until it has ended."""
    start = start_of_number(store, number)
    shown = 0
    while True:
        state = start.state()  # before the text is read: what is written last is not missed
        new = [(place, line) for place, line in _numbered(text_of(store, start)) if place >= shown]
        if new:
            shown = new[-1][0] + 1
            yield "".join(line for _, line in new)
        if state != RUNNING:
            return
        wait(LOCAL_S if store.is_local else REMOTE_S)
        start = start_of_number(store, start.number)


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their places among all that were said; those that were cut out count."""
    place = 0
    for line in text.splitlines(keepends=True):
        if found := CUT.match(line):
            place += int(found[1])
        yield place, line
        place += 1 - bool(found)
