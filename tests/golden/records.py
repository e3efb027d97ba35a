"""Annotation records of the reference's traces as turns and kinds of media."""

from __future__ import annotations

from typing import Any

from raypipe.records import MediumKind, Turn
from raypipe.text.chat import TAGS


def turns_and_kinds(record: dict[str, Any]) -> tuple[list[Turn], list[MediumKind]]:
    """The turns, and the kinds of media in the order in which the human's tags name them."""
    turns = [Turn(t["from"], t["value"]) for t in record["conversations"]]
    rest = "".join(t.text for t in turns if t.role == "human")
    kinds: list[MediumKind] = []
    while True:
        places = sorted((rest.find(tag), kind) for tag, kind in TAGS.items() if tag in rest)
        if not places:
            return turns, kinds
        kinds.append(places[0][1])
        rest = rest[places[0][0] + len("<image>") :]
