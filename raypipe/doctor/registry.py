"""All checks there are. A new one is a function and a line in the list of its module."""

from __future__ import annotations

from raypipe.doctor import access, decoding, hardware, outside, software
from raypipe.doctor.checks import Asked, Finding, carried_out
from raypipe.doctor.host import Host

MACHINE = (*software.CHECKS, *hardware.CHECKS, *decoding.CHECKS, *access.CHECKS)
NAMED = outside.CHECKS  # each of them only where the command line names something for it


def examine(asked: Asked, *, machine: bool = True, host: Host | None = None) -> list[Finding]:
    """Carries the checks out.

    Args:
        machine: this machine itself, beside what is named.
        host: another machine than this one, for tests.
    """
    return carried_out((*MACHINE, *NAMED) if machine else NAMED, host or Host(), asked)
