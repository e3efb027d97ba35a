"""How a job ended: the verb's own exit code, and the reason in a line."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import Any

from raypipe.errors import (
    BudgetError,
    DamageError,
    RaypipeError,
    RequestError,
    ServiceError,
    StoppedError,
)

_BY_CODE: dict[int, type[RaypipeError]] = {
    kind.exit_code: kind for kind in (RequestError, BudgetError, StoppedError, ServiceError, DamageError)
}
# Ray's reasons for a job whose command never ran: the machine, not the request.
_MACHINE = (
    "RUNTIME_ENV_SETUP_FAILURE",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class JobEnd:
    """The end of a job: Ray's status, the exit code to end with, what to tell a person.

    ``again`` says that a death of a process or of a node ended it, so that the same job may go further.
    """

    submission_id: str
    status: str
    exit_code: int
    text: str
    remedy: str = ""
    again: bool = False
    attempts: int = 1

    def error(self, command: str) -> RaypipeError | None:
        """What a command ends with; None where the job succeeded.

        Args:
            command: what continues the job.
        """
        if self.exit_code == 0:
            return None
        remedy = self.remedy
        if self.exit_code == StoppedError.exit_code or self.again or not remedy:
            remedy = f"the same command continues it: {command}"
        return _BY_CODE.get(self.exit_code, RaypipeError)(f"{self.submission_id} {self.text}", remedy)


def ending(job: dict[str, Any], log: str) -> JobEnd:
    """Reads the end of a job from what the cluster says of it and from the end of its log."""
    submission_id, status = str(job["submission_id"]), str(job["status"])
    code = job.get("driver_exit_code")
    if status == "SUCCEEDED":
        return JobEnd(submission_id, status, 0, "succeeded")
    if status == "STOPPED":
        return JobEnd(submission_id, status, 4, "was stopped; what was committed stays")
    if code is None:
        said = " ".join(str(job.get("message") or "no reason is given").split())
        machine = job.get("error_type") in _MACHINE
        return JobEnd(
            submission_id,
            status,
            ServiceError.exit_code if machine else 1,
            f"failed before its command ended: {_short(said)}",
            _remedy_of(said) if machine else "",
            again=not machine or "died" in said,
        )
    found, remedy = _errors(log)
    if code in range(1, 7):
        text = f"ended with exit code {code}" + (f": {found}" if found else "")
        return JobEnd(submission_id, status, code, text, remedy, again=code == 1)
    if code in (126, 127):
        return JobEnd(
            submission_id,
            status,
            ServiceError.exit_code,
            f"could not start its command (exit code {code}): {_short(str(job.get('entrypoint')), 200)}",
            "name the cluster's interpreter: --python /path/to/bin/python",
        )
    number = -code if code < 0 else code - 128
    if number in signal.valid_signals():
        name = _signal(number)
        why = ", as the kernel does when memory is out" if name == "SIGKILL" else ""
        return JobEnd(submission_id, status, 1, f"was killed by {name}{why}", again=True)
    return JobEnd(submission_id, status, 1, f"ended with exit code {code}" + (f": {found}" if found else ""))


def _signal(number: int) -> str:
    """What a signal is called; of the real-time ones only the first and the last have a name."""
    named = number in set(signal.Signals)
    return signal.Signals(number).name if named else f"signal {number}"


def _errors(log: str) -> tuple[str, str]:
    """A verb's own error and remedy, which it writes last."""
    lines = [_ANSI.sub("", line) for line in log.splitlines()]
    places = [n for n, line in enumerate(lines) if line.startswith("error: ")]
    if not places:
        return "", ""
    after = lines[places[-1] + 1 :]
    remedy = next((line.strip().removeprefix("try: ") for line in after if line.startswith("  try: ")), "")
    return _short(lines[places[-1]].removeprefix("error: ")), _short(remedy)


def _remedy_of(said: str) -> str:
    if "runtime_env" in said or "working_dir" in said:
        return "see dashboard_agent.log and runtime_env_setup*.log in the head's /tmp/ray/session_latest/logs"
    return "ray status on the head says what the cluster has and waits for"


def _short(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ..."
