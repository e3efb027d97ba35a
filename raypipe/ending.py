"""How a command ended, in the words that are shown and kept: exit code, message, next step."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from raypipe.errors import RaypipeError, StoppedError


@dataclass(frozen=True)
class Command:
    """What was typed. ``script``: the file of jobs/ that was started, with ``given`` as its arguments."""

    argv: tuple[str, ...] = ()
    script: str = ""
    given: tuple[str, ...] = ()

    @property
    def verb(self) -> str:
        return self.argv[0] if self.argv else ""

    @property
    def line(self) -> str:
        """The command as a shell takes it."""
        words = ["python", self.script, *self.given] if self.script else ["raypipe", *self.argv]
        return shlex.join(words)

    def again(self) -> list[str]:
        """The command that continues; of a submitted job the ways to submit it again."""
        if not submission_id():
            return [self.line]
        ours = ["raypipe", "submit", *self.argv]
        if (
            self.script and self.argv[1:] != self.given
        ):  # the script took the yaml beside it, by its full path
            beside = str(PurePosixPath(self.script).with_suffix(".yaml"))
            ours = ["raypipe", "submit", self.verb, beside, *self.given]
        rays = ["ray", "job", "submit", "--working-dir", ".", "--"]
        return [shlex.join(ours), shlex.join(rays) + " " + self.line]


@dataclass(frozen=True)
class Ending:
    """The end of a command. ``unexpected``: not raised on purpose."""

    code: int
    message: str = ""
    remedy: str = ""
    unexpected: bool = False
    fault: RaypipeError | None = field(default=None, compare=False)

    def render(self) -> str:
        """The text for stderr."""
        if self.fault is not None:
            return self.fault.render()
        return f"error: {self.message}" + (f"\n  try: {self.remedy}" if self.remedy else "")


def ending_of(fault: BaseException, command: Command) -> Ending:
    """What a fault that nobody handled means for the command."""
    if isinstance(fault, KeyboardInterrupt):
        again = "\n       or: ".join(command.again())
        fault = StoppedError(
            "stopped; what was committed stays", f"run the same command again, it continues: {again}"
        )
    if isinstance(fault, RaypipeError):
        return Ending(fault.exit_code, fault.message, fault.remedy, fault=fault)
    if isinstance(fault, ModuleNotFoundError):
        remedy = "activate raypipe's environment (. .venv/bin/activate) first, before ray start too"
        return Ending(5, f"{sys.executable} lacks the package '{fault.name}'", remedy, unexpected=True)
    if isinstance(fault, ImportError):  # fsspec names the package of an address that it cannot open
        said = (str(fault).strip().splitlines() or ["a package is missing"])[0]
        return Ending(5, said[:300], f"install it into the environment of {sys.executable}", unexpected=True)
    if isinstance(fault, SystemExit):
        return Ending(fault.code if isinstance(fault.code, int) else 1, "", "")
    first = (str(fault).strip().splitlines() or [""])[0]
    said = f"{type(fault).__name__}: {first[:300]}"
    return Ending(1, said, "the same command with --debug", unexpected=True)


def submission_id() -> str:
    """What Ray calls the job that this process is the entrypoint of; "" where it is none."""
    try:
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", ""))
        return str(config["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return ""
