"""One driver at a time on one output: a lease made of epochs, each a name that is put once.

``driver/00007.json`` says who holds epoch 7; ``.closed`` ends its right to write, and says whether it
was released, fenced by a successor, or closed by its own holder to commit; ``.done`` ends the commit.
Each is put with put_new, so of a holder that wants to commit and a successor that wants to fence it
exactly one wins, whatever the clocks say. On one host a holder lives as long as its process; a holder
on another host replaces ``.beat``, and counts as dead when that stood still for a whole ``ttl_s``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from raypipe.errors import ServiceError, StoppedError
from raypipe.store.files import Store
from raypipe.store.process import Process

FOLDER = "driver"
TTL_S = 30.0
KEPT = 2  # epochs whose objects stay
LOOKS = 1000  # at the folder, before taking the lease is given up


class Lease:
    """The right to write one output, held by this process.

    Made by ``take``. ``check`` while working, ``seal`` right before the commit, ``finish`` after it;
    as a context manager it gives up what it holds at the end.
    """

    def __init__(self, store: Store, epoch: int, ttl_s: float, body: dict[str, Any]) -> None:
        self.store, self.epoch, self.ttl_s = store, epoch, ttl_s
        self.sealed = self.ended = self.lost = False
        self._nonce, self._pid = body["nonce"], os.getpid()
        self._stop = threading.Event()
        self._beat = 0
        self._thread = threading.Thread(target=self._beating, name="raypipe-lease", daemon=True)

    @classmethod
    def take(cls, store: Store, ttl_s: float = TTL_S, *, who: Process | None = None) -> Lease:
        """Takes the lease, over from a dead driver if there was one.

        Args:
            ttl_s: seconds; how long the sign of life of a driver on another host may stand still.
            who: the process that takes it; this one unless said otherwise.

        Raises:
            ServiceError: another driver holds it.
        """
        who = who or Process.this()
        body = {
            **asdict(who),
            "nonce": uuid.uuid4().hex,
            "ttl_s": ttl_s,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        for _ in range(LOOKS):
            names = set(store.list(FOLDER))
            newest = _newest(names)
            if newest and not _over(store, newest, names, who, body):
                continue  # it has changed: look again
            epoch = newest + 1
            if not store.put_new(_name(epoch, "json"), _dump({"epoch": epoch, **body}), ours=True):
                continue
            if _newest(set(store.list(FOLDER))) != epoch:
                # We looked long ago: later epochs came and went, and the name was free once more.
                store.delete(_name(epoch, "json"))
                continue
            return cls(store, epoch, ttl_s, body)._begun()
        raise ServiceError(f"cannot take {store.root}: others take it all the time", "start one driver only")

    def check(self) -> None:
        """Whether the lease is still held; cheap, for use between steps.

        Raises:
            StoppedError: another driver took over.
        """
        names = set(self.store.list(FOLDER))
        last = "done" if self.sealed else "closed"
        if self.lost or _newest(names) != self.epoch or (not self.ended and _name(self.epoch, last) in names):
            raise self._lost()

    def seal(self) -> None:
        """Closes the epoch to commit: from here on no other driver may start while this one lives.

        Raises:
            StoppedError: another driver took over; nothing was changed by the commit.
        """
        if not self.sealed:
            if not self._put("closed", {"state": "committing"}):
                raise self._lost()
            # The name may have been free only because the epoch is so old that it was cleaned away.
            if self._superseded():
                raise self._lost()
            self.sealed = True

    def finish(self) -> None:
        """Ends the commit.

        Raises:
            StoppedError: it took so long without a sign of life that another driver took over.
        """
        if not self.sealed:
            raise ValueError("finish() comes after seal()")
        # Looked at before, not after: once the commit is done the next driver may start at any moment.
        if self.lost or self._superseded() or not self._put("done", {"state": "finished"}):
            raise self._lost()
        self._end()

    def release(self) -> None:
        """Gives up what is held: without a commit, or out of one that failed. Fine when it is lost."""
        if not self.ended:
            self._end()
            if not self.lost:
                self._put("done" if self.sealed else "closed", {"state": "released"})

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if os.getpid() != self._pid:  # a forked child holds nothing
            return
        # What went wrong before is what has to be said; and a lease that stays is taken over later.
        with contextlib.suppress(ServiceError) if kind else contextlib.nullcontext():
            self.release()

    def _begun(self) -> Lease:
        try:
            self._send_beat()
            self._thread.start()
            old = [n for n in self.store.list(FOLDER) if _epoch_of(n) <= self.epoch - KEPT]
            self.store.delete_many(old)
        except BaseException:
            with contextlib.suppress(ServiceError):
                self.release()
            raise
        return self

    def _end(self) -> None:
        self.ended = True
        self._stop.set()
        if self._thread.is_alive() and os.getpid() == self._pid:
            self._thread.join(self.ttl_s)

    def _put(self, what: str, body: dict[str, Any]) -> bool:
        return self.store.put_new(
            _name(self.epoch, what), _dump({"by": self._nonce, "what": what, **body}), ours=True
        )

    def _send_beat(self) -> None:
        self._beat += 1
        body = {"by": self._nonce, "beat": self._beat}
        self.store.replace(_name(self.epoch, "beat"), _dump(body))

    def _beating(self) -> None:
        while not self._stop.wait(self.ttl_s / 4):
            with contextlib.suppress(ServiceError):  # the next beat may get through
                if self._superseded():
                    return  # the driver hears of it at its next check, or when it wants to commit
                self._send_beat()

    def _superseded(self) -> bool:
        return _newest(set(self.store.list(FOLDER))) != self.epoch

    def _lost(self) -> StoppedError:
        self.lost = True
        self._stop.set()
        return StoppedError(
            f"another driver took over {self.store.root}; this one stops",
            "let the other one finish, then run the same command again if it is needed",
        )


def holder_of(store: Store) -> dict[str, Any] | None:
    """Who holds the lease, as far as can be seen at once; None where nobody does.

    Returns:
        ``host``, ``pid``, ``since``, and ``alive``: whether its process is there, None for another host.
    """
    names = set(store.list(FOLDER))
    epoch = _newest(names)
    if not epoch or _name(epoch, "done") in names:
        return None
    if (
        _name(epoch, "closed") in names
        and _parsed(_read(store, epoch, "closed")).get("state") != "committing"
    ):
        return None
    body = _parsed(_read(store, epoch, "json"))
    process = _process(body)
    here = process is not None and process.on_this_host(Process.this())
    told = {name: body.get(name) for name in ("host", "pid", "since")}
    return {**told, "alive": process.alive() if process and here else None}


def _over(store: Store, epoch: int, names: set[str], who: Process, mine: dict[str, Any]) -> bool:
    """Whether an epoch is over. Fences its holder where that is dead; False: look at everything again.

    Raises:
        ServiceError: its holder is alive.
    """
    last = "closed"
    if _name(epoch, "closed") in names:
        closed = _parsed(_read(store, epoch, "closed"))
        if closed.get("state") != "committing" or _name(epoch, "done") in names:
            return True
        last = "done"
    text = _read(store, epoch, "json")
    if not text:
        return False  # cleaned away since: there are later epochs
    holder = _parsed(text)
    if not _dead(store, epoch, last, holder, who, mine["ttl_s"]):
        return False
    fence = {"by": mine["nonce"], "what": last, "state": "fenced"}
    store.put_new(_name(epoch, last), _dump(fence), ours=True)
    return False


def _dead(store: Store, epoch: int, last: str, holder: dict[str, Any], who: Process, ttl_s: float) -> bool:
    """True: dead or silent. False: something changed meanwhile. Raises where it shows life."""
    process = _process(holder)
    if process and process.on_this_host(who):
        if process.alive():
            raise _refusal(store, holder)
        return True
    patience = max(ttl_s, _number(holder.get("ttl_s")))
    before, end = _read(store, epoch, "beat"), time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(min(patience / 10, 1.0))
        if store.exists(_name(epoch, last)) or store.exists(_name(epoch + 1, "json")):
            return False
        if _read(store, epoch, "beat") != before:
            raise _refusal(store, holder)
    return True


def _refusal(store: Store, holder: dict[str, Any]) -> ServiceError:
    who = f"host {holder.get('host')}, pid {holder.get('pid')}, since {holder.get('since')}"
    return ServiceError(
        f"another driver is writing {store.root} ({who})",
        "wait for it to end, or end it: the same command then continues; or name another out=",
    )


def _name(epoch: int, what: str) -> str:
    return f"{FOLDER}/{epoch:05d}.{what}"


def _epoch_of(name: str) -> int:
    """The epoch that an object of the folder is of; a number above all of them for what is none of ours."""
    number = name.removeprefix(f"{FOLDER}/").partition(".")[0]
    return int(number) if number.isdecimal() else sys.maxsize


def _newest(names: set[str]) -> int:
    """The newest epoch; 0 where there is none."""
    epochs = (_epoch_of(n) for n in names if n.endswith(".json"))
    return max((e for e in epochs if e != sys.maxsize), default=0)


def _dump(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, sort_keys=True) + "\n").encode()


def _read(store: Store, epoch: int, what: str) -> bytes:
    try:
        return store.read(_name(epoch, what))
    except FileNotFoundError:
        return b""


def _parsed(text: bytes) -> dict[str, Any]:
    """A body; empty where it is nothing that a driver wrote."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _process(holder: dict[str, Any]) -> Process | None:
    try:
        return Process(str(holder["host"]), str(holder["here"]), int(holder["pid"]), str(holder["started"]))
    except (KeyError, TypeError, ValueError):
        return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
