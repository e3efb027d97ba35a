"""Submits a verb, follows it, and says in its own exit code how it ended."""

from __future__ import annotations

import os
import platform
import shlex
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypipe import __version__
from raypipe.errors import RequestError, ServiceError, StoppedError
from raypipe.store.process import user
from raypipe.submit.dashboard import Busy, Dashboard, Refused, Unreachable
from raypipe.submit.ended import JobEnd, ending
from raypipe.submit.follow import ENDED, Log, Pace, follow, wait
from raypipe.submit.order import Order, refuse_missing
from raypipe.submit.upload import Upload, chosen, package

STOP_WAIT_S = 60  # what a job is given to stop in good order; Ray's own is 3 s
SUBMIT_TRIES = 6
PACE = Pace()


@dataclass
class Followed:
    """A job that this process submitted or joined."""

    submission_id: str
    joined: bool = False
    by: str = ""


@dataclass
class Submitter:
    """One request to the cluster.

    Args:
        show: takes the job's log as it comes.
        note: takes a line about what happens here.
        python: the interpreter on the cluster.
    """

    cluster: Dashboard
    order: Order
    root: Path
    show: Callable[[str], None]
    note: Callable[[str], None]
    python: str = "python"
    pace: Pace = field(default_factory=lambda: PACE)
    job: Followed | None = field(init=False, default=None)  # what Ctrl-C is about

    def run(self, retries: int = 0, detach: bool = False) -> JobEnd | Followed:
        """Follows the job of this run folder, or submits one; submits again after a death.

        Raises:
            RequestError: the upload is refused, or another job writes to this folder.
            ServiceError: the cluster cannot be reached or refuses.
            StoppedError: Ctrl-C.
        """
        self._greet()
        upload = chosen(self.root)
        refuse_missing(self.order, upload)
        try:
            return self._carry_out(upload, retries, detach)
        except KeyboardInterrupt:
            if self.job is None:
                raise
            raise self._interrupted(self.job) from None

    def _carry_out(self, upload: Upload, retries: int, detach: bool) -> JobEnd | Followed:
        for attempt in range(retries + 1):
            self.job = job = self._join() or self._submit(upload)
            if detach:
                return job
            log = Log(self.show)
            ended = ending(follow(self.cluster, job.submission_id, log, self.note, self.pace), log.tail)
            ended.attempts, self.job = attempt + 1, None
            if not ended.again or attempt == retries:
                break
            self.note(f"{job.submission_id} {ended.text}; submitting again ({attempt + 1} of {retries})")
            time.sleep(min(self.pace.first * 5 * 2**attempt, 60.0))
        return ended

    def _greet(self) -> None:
        import ray

        theirs = self.cluster.ray_version()
        if theirs != ray.__version__:
            self.note(
                f"the cluster runs Ray {theirs}, this machine {ray.__version__}; the job uses the cluster's"
            )
        if not self.cluster.asks_for_a_token():
            self.note(f"{self.cluster.address} takes jobs from anyone who reaches it: start it with a token")

    def _join(self) -> Followed | None:
        """The job of this run folder that has not ended, if it does the same.

        Raises:
            RequestError: it does something else.
        """
        live = [j for j in self._mine() if j["status"] not in ENDED]
        if not live:
            return None
        job = live[-1]
        submission_id = job["submission_id"]
        if _arguments(job["entrypoint"]) != [self.order.verb, *self.order.arguments]:
            raise RequestError(
                f"{submission_id} works on {self.order.out} with other settings: {job['entrypoint'][:300]}",
                f"follow it with its own settings, or stop it first: ray job stop {submission_id}",
            )
        by = (job.get("metadata") or {}).get("raypipe_by", "")
        self.job = Followed(submission_id, joined=True, by=by)
        self.note(
            f"{submission_id} is at work already{f' (submitted by {by})' if by else ''}: following it; "
            "Ctrl-C leaves it running"
        )
        return self.job

    def _mine(self) -> list[dict[str, Any]]:
        """The submissions of this run folder, oldest first."""
        name = self.order.name()
        found = [(_number(j.get("submission_id"), name), j) for j in self.cluster.jobs()]
        return [job for number, job in sorted((f for f in found if f[0]), key=lambda f: f[0])]

    def _submit(self, upload: Upload) -> Followed:
        mine = self._mine()
        before = _number(mine[-1]["submission_id"], self.order.name()) if mine else 0
        submission_id = f"{self.order.name()}-{before + 1}"
        uri, data = package(upload)
        if not self.cluster.has_package(uri):
            self.note(f"uploading {len(upload.sizes)} files, {len(data) / 2**20:.1f} MiB")
            self.cluster.put_package(uri, data)
        by = f"{user() or os.getuid()}@{platform.node()}"
        body = {
            "entrypoint": self.order.entrypoint(self.root, self.python),
            "submission_id": submission_id,
            "runtime_env": {
                "working_dir": uri,
                "env_vars": {
                    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
                    "RAYPIPE_SUBMITTED_BY": __version__,
                },
            },
            "metadata": {
                "raypipe_by": by,
                "raypipe_out": self.order.out or "",
                "raypipe_nonce": uuid.uuid4().hex,
            },
        }
        return self._post(body)

    def _post(self, body: dict[str, Any]) -> Followed:
        """Submits, again where no answer came; of two that do so at once the second joins the first."""
        submission_id = body["submission_id"]
        self.job = Followed(submission_id)
        for number in range(SUBMIT_TRIES):
            try:
                self.cluster.submit(body)
                break
            except (Busy, Unreachable) as fault:
                if number == SUBMIT_TRIES - 1:
                    raise
                self.note(f"{fault.message}; trying again")
                time.sleep(min(self.pace.first * 2**number, self.pace.longest))
            except Refused as fault:
                if "already exists" not in fault.message:
                    raise
                if (self.cluster.job(submission_id).get("metadata") or {}) == body["metadata"]:
                    break  # an earlier try of ours arrived, its answer did not
                joined = self._join()
                if joined is None:
                    raise ServiceError(
                        f"{submission_id} was taken by a job that has ended", "run it again"
                    ) from None
                return joined
        self.note(f"submitted {submission_id} to {self.cluster.address}; Ctrl-C stops it in good order")
        return self.job

    def _interrupted(self, job: Followed) -> StoppedError | ServiceError:
        again = (
            f"the same command {'follows it again' if job.joined else 'continues it'}: {self.order.command}"
        )
        if job.joined:
            stop = f"ray job stop --address {self.cluster.address} {job.submission_id}"
            return StoppedError(
                f"no longer following {job.submission_id}, which goes on", f"{again}\n  to stop it: {stop}"
            )
        self.note(f"stopping {job.submission_id}; again Ctrl-C leaves it to itself")
        try:
            self.cluster.stop(job.submission_id)
            ended = wait(self.cluster, job.submission_id, self.pace, STOP_WAIT_S + 15)
        except ServiceError as fault:
            return ServiceError(
                f"{job.submission_id} could not be told to stop and may go on: {fault.message}", again
            )
        if ended is None:
            return StoppedError(f"{job.submission_id} was told to stop and has not ended yet", again)
        if ended["status"] == "SUCCEEDED":
            return StoppedError(f"{job.submission_id} had finished before it was told to stop", again)
        return StoppedError(f"stopped {job.submission_id}; what was committed stays", again)


def _number(submission_id: str | None, name: str) -> int:
    """Which submission of a run folder an id is; 0 for those of others."""
    head, _, tail = (submission_id or "").rpartition("-")
    return int(tail) if head == name and tail.isdecimal() else 0


def _arguments(entrypoint: str) -> list[str]:
    """The verb and arguments of a job's command, whichever way it was written."""
    words = shlex.split(entrypoint)
    if words[1:3] == ["-m", "raypipe.cli"]:
        return words[3:]
    return [Path(words[1]).stem, *words[2:]] if len(words) > 1 else words
