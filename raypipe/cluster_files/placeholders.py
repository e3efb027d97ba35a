"""Values that only stand for yours: addresses and ids that exist nowhere."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from raypipe.cluster_files.read import ClusterFile
from raypipe.cluster_files.types import spelled
from raypipe.cluster_files.view import strings

IDS = re.compile(
    r"\b(?:ami|sg|fs|subnet|vpc|eni)-0{8,17}\b|\bedit-this[\w-]*|\b[\w.-]*\.?example\.(?:com|org|net)\b"
)
ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")
DOCUMENTATION = tuple(ipaddress.ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"))


@dataclass(frozen=True)
class Placeholder:
    """A value that is to be edited before the first start.

    Attributes:
        value: as it stands there.
        file: where it is first: the file that was named, or a policy beside it.
        line: counted from 1.
        place: the keys that lead to it.
        more: further places with the same value.
    """

    value: str
    file: str
    line: int
    place: str
    more: int = 0

    def row(self) -> dict[str, Any]:
        return asdict(self)


def placeholders(file: ClusterFile) -> list[Placeholder]:
    """The values of a file, and of the policies beside it, that are still those they were shipped with."""
    found: dict[str, list[Placeholder]] = {}
    for path, source in [*((file.path, s) for s in file.sources), *file.policies]:
        for place, text in strings(source):
            for value in _stands_for_another(text):
                here = Placeholder(value, path, source.line(place), spelled(place))
                held = found.setdefault(value, [])
                if all((h.file, h.line) != (path, here.line) for h in held):  # an alias is one place
                    held.append(here)
    return [replace(held[0], more=len(held) - 1) for held in found.values()]


def _stands_for_another(text: str) -> Iterator[str]:
    yield from (m[0] for m in IDS.finditer(text))
    for match in ADDRESS.finditer(text):
        try:
            if any(ipaddress.ip_address(match[0]) in network for network in DOCUMENTATION):
                yield match[0]
        except ValueError:
            continue
