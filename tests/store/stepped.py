"""Drivers that step through a shared store one operation at a time, in an order drawn from a seed."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from typing import Any
from unittest import mock

from raypipe.errors import ServiceError, StoppedError
from raypipe.store.files import Store
from raypipe.store.lease import Lease
from raypipe.store.process import Process

GATED = ("put_new", "replace", "read", "exists", "list", "delete", "delete_many")
NEVER_S = 1e6  # no beat: life is told by the process alone


class Died(BaseException):
    """The process of an actor is killed here."""


class _Stepped(Store):
    """Waits for its actor's turn before each operation."""

    def __init__(self, root: str, actor: _Actor) -> None:
        super().__init__(root)
        for name in GATED:
            setattr(self, name, self._gated(name, actor))

    def _gated(self, name: str, actor: _Actor) -> Any:
        real = getattr(Store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            actor.step()
            done = real(self, *args, **kwargs)
            if name == "put_new" and done:
                actor.owner.put(args[0], json.loads(args[1]))
            return done

        return call


class _Actor:
    def __init__(self, owner: Actors, number: int) -> None:
        self.owner, self.number = owner, number
        self.turn, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.over = self.dying = False
        self.speed = owner.chance.choice([1, 1, 5, 25])
        self.chance = random.Random(owner.chance.random())
        self.thread = threading.Thread(target=self._live, daemon=True)

    def step(self) -> None:
        self.back.release()
        self.turn.acquire()
        if self.dying:
            raise Died

    def _live(self) -> None:
        self.turn.acquire()
        try:
            for _ in range(6):
                self._drive()
        except Died:
            self.owner.counts["died"] += 1
        except Exception as fault:
            self.owner.wrong.append(f"{type(fault).__name__}: {fault}")
        finally:
            self.over = True
            self.back.release()

    def _drive(self) -> None:
        owner, store = self.owner, _Stepped(self.owner.root, self)
        # A new id for each life, so that what is said of one is not said of the next.
        who = Process("host", "boot", next(owner.ids), "")
        owner.actor_of[who.pid] = self
        try:
            lease = Lease.take(store, NEVER_S, who=who)
        except ServiceError:
            owner.counts["refused"] += 1
            return
        try:
            for _ in range(self.chance.randrange(4)):
                lease.check()
            if self.chance.random() < 0.25:
                lease.release()
                return
            lease.seal()
            owner.sealed(lease.epoch, who.pid)
            for part in range(3):
                store.replace("data", b"%d" % part)
            lease.finish()
            owner.counts["finished"] += 1
        except StoppedError:
            owner.counts["lost"] += 1
            lease.release()
        finally:
            lease._stop.set()


class Actors:
    """Runs some actors to their ends; ``wrong`` says what must not have been, ``counts`` what was."""

    def __init__(self, root: str, chance: random.Random, count: int = 4) -> None:
        self.root, self.chance = root, chance
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.ids = iter(range(1, 10_000))
        self.actor_of: dict[int, _Actor] = {}
        self.holder_of: dict[int, int] = {}
        self.committing: dict[int, int] = {}  # epoch: process, from its seal to its end
        self.closed_by: set[int] = set()
        self.slandered: set[int] = set()
        self.actors = [_Actor(self, n) for n in range(count)]

    def run(self) -> None:
        with mock.patch.object(Process, "alive", lambda process: self.alive(process.pid)):
            for actor in self.actors:
                actor.thread.start()
            while ready := [a for a in self.actors if not a.over]:
                actor = self.chance.choices(ready, [a.speed for a in ready])[0]
                self._fate(actor)
                actor.turn.release()
                actor.back.acquire()
            for actor in self.actors:
                actor.thread.join()

    def _fate(self, actor: _Actor) -> None:
        drawn = self.chance.random()
        if drawn < 0.004:
            actor.dying = True
            for epoch, pid in list(self.committing.items()):
                if self.actor_of[pid] is actor:
                    del self.committing[epoch]
        elif drawn < 0.03:  # others take it for dead from now on, though it goes on
            mine = [pid for pid, one in self.actor_of.items() if one is actor]
            self.slandered.update(mine[-1:])

    def alive(self, pid: int) -> bool:
        actor = self.actor_of[pid]
        if actor.over or actor.dying:
            return False
        # Past its seal a living process is never taken for dead: on one host that is known for sure.
        return pid not in self.slandered or pid in self.closed_by

    def put(self, name: str, body: dict[str, Any]) -> None:
        number, _, what = name.partition("/")[2].partition(".")
        epoch = int(number)
        if what == "json":
            self.holder_of[epoch] = body["pid"]
        elif what == "closed" and body["state"] == "committing":
            self.closed_by.add(self.holder_of[epoch])
        elif what == "done":
            self.committing.pop(epoch, None)

    def sealed(self, epoch: int, pid: int) -> None:
        if self.committing:
            self.wrong.append(f"epoch {epoch} is past its seal beside {sorted(self.committing)}")
        self.committing[epoch] = pid
