"""What a check of a cluster's file finds, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from raypipe.cluster_files.places import Document, Place
from raypipe.cluster_files.types import spelled
from raypipe.cluster_files.view import Hit, View
from raypipe.redaction import redact

DEFAULT = " (Ray's default)"  # behind the place of what the file leaves to Ray


class Severity(StrEnum):
    FAIL = "fail"  # a door that is open, or a cluster that cannot start
    WARN = "warn"  # worth a look; a person may have a reason


@dataclass(frozen=True)
class Finding:
    """One weakness of a file.

    Attributes:
        rule: the id of the rule; stable.
        severity: FAIL or WARN.
        file: the file it is in: the one that was named, or a policy beside it.
        line: counted from 1.
        place: the keys that lead to it, as "docker.image".
        said: what is there.
        fix: what to write instead.
    """

    rule: str
    severity: Severity
    file: str
    line: int
    place: str
    said: str
    fix: str

    def row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Rule:
    """A kind of weakness.

    Attributes:
        id: stable, in words.
        severity: FAIL or WARN.
        said: what is weak, used where the hit does not say more itself.
        fix: what to write instead.
        look: yields the places where a file is weak.
    """

    id: str
    severity: Severity
    said: str
    fix: str
    look: Callable[[View], Iterator[Hit]]

    def findings(self, view: View) -> Iterator[Finding]:
        for hit in self.look(view):
            place = At(hit.file or view.path, hit.source, hit.place)
            yield place.finding(self.id, self.severity, hit.said or self.said, self.fix)


class At(NamedTuple):
    """A place in a document of a file."""

    file: str
    source: Document
    place: Place

    def finding(self, rule: str, severity: Severity, said: str, fix: str) -> Finding:
        """What is not in the file itself comes from Ray's defaults, and is named so; secrets are left out."""
        named = spelled(self.place)
        if self.place and self.place[:1] not in self.source.lines:
            named += DEFAULT
        return Finding(rule, severity, self.file, self.source.line(self.place), named, redact(said), fix)
