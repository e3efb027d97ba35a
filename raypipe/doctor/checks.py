"""What a check is, and how all of them are carried out: side by side, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from raypipe.doctor.host import Host
from raypipe.errors import RaypipeError
from raypipe.redaction import redact

AT_ONCE = 8


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, and what to do where it is not well."""

    check: str
    level: Level
    found: str
    fix: str = ""

    def row(self) -> dict[str, str]:
        """For people and programs: without what is secret in the addresses that it names."""
        return {
            "check": self.check,
            "level": str(self.level),
            "found": redact(self.found),
            "fix": redact(self.fix),
        }


@dataclass(frozen=True)
class Asked:
    """What the command line names beside the machine itself.

    Attributes:
        out: an address that is to be written, tried with a file that is taken away again.
        judge: the address of a judge, or a yaml of an evaluation that names one.
        data: addresses that are read.
    """

    out: str | None = None
    judge: str | None = None
    data: tuple[str, ...] = ()


Say = Callable[..., Finding]
Act = Callable[[Host, Asked], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """One check: its name in the list of findings, and what it does.

    ``act`` yields findings of that name; none where there is nothing to look at here.
    """

    name: str
    act: Act


def ok(name: str, found: str) -> Finding:
    return Finding(name, Level.OK, found)


def warn(name: str, found: str, fix: str) -> Finding:
    return Finding(name, Level.WARN, found, fix)


def fail(name: str, found: str, fix: str) -> Finding:
    return Finding(name, Level.FAIL, found, fix)


def carried_out(checks: tuple[Check, ...], host: Host, asked: Asked) -> list[Finding]:
    """The findings in the order of the checks, whichever is done first."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="doctor") as pool:
        return [
            finding for found in pool.map(lambda c: _guarded(c, host, asked), checks) for finding in found
        ]


def _guarded(check: Check, host: Host, asked: Asked) -> list[Finding]:
    """A check that breaks is a finding: whoever asks the doctor is to hear of the others too."""
    found: list[Finding] = []
    try:
        for finding in check.act(host, asked):
            found.append(finding)
    except Exception as fault:
        first = (str(fault).strip().splitlines() or [""])[0][:200]
        fix = (
            getattr(fault, "remedy", "")
            or "the check itself failed; run raypipe doctor --debug and report it"
        )
        kind = "" if isinstance(fault, RaypipeError) else f"{type(fault).__name__}: "
        found.append(fail(check.name, f"{kind}{first}", fix))
    return found
