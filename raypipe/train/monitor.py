"""The driver's watch over the workers: stalls are reported and ended, errors no restart mends end the run."""

from __future__ import annotations

import datetime
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import UserCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.store.files import Store
from raypipe.store.process import start_of
from raypipe.train.board import Board, Watched, unpacked
from raypipe.train.stalls import Limits, judge, report, sentence
from raypipe.train.status import mirrored

FOLDER = "hangs"
DUMP_S = 4.0  # for py-spy; the whole report must be out 60 s after the last movement
EXAMINE_S = 8.0
_NOISE = ("class_name", "actor_id", "namespace", "ip:", "The actor died unexpectedly before")
Tell = Callable[[str], None]
Look = Callable[[int, str], dict[str, Any]]  # takes a process's id and its start
log = logging.getLogger(__name__)


class Failures(UserCallback):
    """In Ray Train's controller: notes how workers ended; ends the run where no new attempt can help."""

    def __init__(self, board: str) -> None:
        self._board = board

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raises the workers' own error, which Ray does not retry, when there is one on the board."""
        texts = {rank: text_of(fault) for rank, fault in _deaths_first(worker_exceptions)}
        fault = ray.get(ray.get_actor(self._board).put_failures.remote(texts))
        if fault:
            raise unpacked(fault)


class Monitor:
    """Looks at the board every second, as a context manager around Ray Train's fit.

    Args:
        tell: shown to the user, one line at a time.
    """

    def __init__(self, name: str, store: Store, limits: Limits, tell: Tell) -> None:
        self.board_name, self._store, self._limits, self._tell = name, store, limits, tell
        # Pinned to the driver's node, as Ray Train's controller is: with that node the run is over anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Board)
        self._board = actor.options(name=name).remote()
        self.seen = Watched()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._over.set()
        self._thread.join(EXAMINE_S + 2.0)
        if kind is not None:
            self.close()

    def close(self) -> None:
        """Workers leave, those that Ray starts after this too."""
        self._board.close.remote()

    def view(self) -> dict[str, Any]:
        return ray.get(self._board.view.remote(), timeout=10)

    def _watch(self) -> None:
        every = min(1.0, self._limits.stall_s / 10)
        while not self._over.wait(every):
            try:
                self._look()
            except Exception as fault:  # a watch that fails must not end what it watches
                log.warning("the watch over the workers met %s: %s", type(fault).__name__, fault)

    def _look(self) -> None:
        view = self.view()
        if view["attempt"] > self.seen.attempts:
            self._begun(view)
        if self._look_up(view):
            view = self.view()
        stall = judge(view, self._limits)
        if stall is not None:
            self._end(view, stall)

    def _look_up(self, view: dict[str, Any]) -> bool:
        """Reads where silent ranks are; whether there were any.

        A rank that fell silent between two signs may have left the phase that it was in at the first of
        them, and phases have limits of their own.
        """
        silent = [r for r in view["ranks"] if r["phase"] != "done" and self._limits.silent(r)]
        fresh = [] if view["ended"] else [r for r in silent if "looked_up" not in r]
        for rank, found in zip(fresh, self._ask(fresh, last_said), strict=True):
            ray.get(self._board.look_up.remote(view["key"], rank["rank"], found), timeout=10)
        return bool(fresh)

    def _begun(self, view: dict[str, Any]) -> None:
        self.seen.attempts = view["attempt"]
        self.seen.worlds.append(view["world"])
        if view["attempt"] > 1:
            self._tell(f"started again with {view['world']} worker(s), attempt {view['attempt']}")

    def _end(self, view: dict[str, Any], stall: Any) -> None:
        silent = [r for r in view["ranks"] if self._limits.silent(r) and r["rank"] in stall.culprits]
        for rank, found in zip(silent, self._ask(silent, examine), strict=True):
            if "still_s" in found:  # as of now, where what it posted is as of its last sign
                found["still_s"] -= rank["age_s"]
            rank.update(found)
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        said = report(view, stall, when)
        name = f"{FOLDER}/{view['attempt']}-step-{said['step']}.json"
        self._store.replace(name, (json.dumps(said, indent=1) + "\n").encode())
        self.seen.hangs.append(name)
        self._tell(f"{sentence(said)}; see {self._store.path(name)}; starting again from the last checkpoint")
        ray.get(self._board.end.remote(view["key"]), timeout=10)

    def _ask(self, ranks: list[dict[str, Any]], look: Look) -> list[dict[str, Any]]:
        """What a function finds out about silent processes, on their nodes; empty where none answers."""
        asked = []
        for rank in ranks:
            there = NodeAffinitySchedulingStrategy(rank["node"], soft=False)
            task: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(look)
            asked.append(task.remote(rank["pid"], rank["started"]))
        answered = set(ray.wait(asked, num_returns=len(asked), timeout=EXAMINE_S)[0]) if asked else set()
        return [self._found(rank, ref, ref in answered) for rank, ref in zip(ranks, asked, strict=True)]

    @staticmethod
    def _found(rank: dict[str, Any], asked: Any, answered: bool) -> dict[str, Any]:
        why: object = f"no answer in {EXAMINE_S:g} s"
        if answered:
            try:
                return ray.get(asked)
            except Exception as fault:  # its node may be gone, too
                why = fault
        log.warning("process %s on %s cannot be looked at: %s", rank["pid"], rank["host"], why)
        return {}


def last_said(pid: int, started: str) -> dict[str, Any]:
    """On a silent worker's node: its last Status; empty where another process has its number now."""
    return dict(mirrored(pid) or {}) if start_of(pid) == started else {}


def examine(pid: int, started: str) -> dict[str, Any]:
    """On a silent worker's node: its last Status and its stacks, then SIGKILL, as it cannot end itself."""
    found = last_said(pid, started)
    if start_of(pid) != started:
        return found
    spy = Path(sys.executable).with_name("py-spy")
    command = [str(spy), "dump", "--nonblocking", "--pid", str(pid)]
    try:
        dump = subprocess.run(command, capture_output=True, text=True, timeout=DUMP_S, check=True).stdout
        found["stacks"] = {"py-spy": dump.splitlines()}
    except (OSError, subprocess.SubprocessError) as fault:
        said = (getattr(fault, "stderr", "") or str(fault)).strip().splitlines()
        found["stacks"] = {"py-spy": [f"no stack: {said[-1] if said else type(fault).__name__}"]}
    os.kill(pid, signal.SIGKILL)
    return found


def _deaths_first(faults: dict[int, Exception]) -> list[tuple[int, Exception]]:
    """What ended a process explains what the others say of a connection that broke."""
    return sorted(faults.items(), key=lambda item: (not isinstance(_inner(item[1]), RayActorError), item[0]))


def _inner(fault: BaseException) -> BaseException:
    return getattr(fault, "health_check_failure", None) or fault


def text_of(fault: Exception) -> str:
    inner = _inner(fault)
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    if isinstance(inner, RayActorError):
        said = " ".join(line for line in lines if not line.startswith(_NOISE))
        return (
            f"{said.partition(' Some common causes')[0][:300]} Out of memory (see dmesg), a signal or a crash"
        )
    return f"{type(inner).__name__}: {lines[-1] if lines else ''}"[:400]
