"""Whether the nodes of a cluster see the same files under a local path. No Ray: a node is a function here.

A path that only the driver's machine has costs hours: every other node writes into a folder of its own, and
at the end a part of the run is missing. So each node is asked beforehand, and looks for a file with a random
name that the driver has put there; one that joins later looks for itself before it works.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError, ServiceError
from raypipe.settings import local
from raypipe.store.disk import temporary_name

REMEDY = "mount one file system on all nodes under this path, or use an s3:// address"
SAMPLE = 16  # names of a folder that a node must see, too
NODES_SHOWN = 6


@dataclass(frozen=True)
class Look:
    """What a node is to look at.

    Attributes:
        path: as the settings have it.
        seen: files and folders that must be there.
        content: what the first of them holds, a file of the driver; "" where nothing is written.
    """

    path: str
    seen: tuple[str, ...]
    content: str = ""


@dataclass(frozen=True)
class Answer:
    """What a node found: ``fault`` is "" where it sees the same, ``reply`` the file that it wrote."""

    fault: str = ""
    reply: str = ""


Ask = Callable[[Sequence[Look]], Mapping[str, Sequence[Answer]]]  # answers by the name of the node


def look(looks: Sequence[Look], root: str = "") -> list[Answer]:
    """Runs on a node.

    Args:
        root: in front of every path; for tests, in which nodes have one disk.
    """
    return [_look(one, root) for one in looks]


def _look(one: Look, root: str) -> Answer:
    for name in one.seen:
        if not os.path.lexists(root + name):
            return Answer("it is not there" if name == one.path else f"{os.path.basename(name)} is not there")
    if not one.content:
        return Answer()
    marker = root + one.seen[0]
    try:
        if Path(marker).read_text(encoding="utf-8") != one.content:
            return Answer("another folder is there")
        reply = f"{one.seen[0]}-{uuid.uuid4().hex}"
        Path(root + reply).write_text(one.content, encoding="utf-8")
    except OSError as fault:
        return Answer(f"{fault.strerror or fault}")
    return Answer(reply=reply)


def refuse_unshared(writes: Iterable[str], reads: Iterable[str], ask: Ask) -> None:
    """Refuses a run whose paths are not the same on all nodes. Addresses such as s3:// always are.

    Args:
        writes: folders that workers write into; they need not be there yet.
        reads: files and folders that workers read. Equal copies on all nodes are fine.
        ask: carries ``look`` to the nodes.

    Raises:
        RequestError: names the nodes and the path.
        ServiceError: the driver itself cannot write there.
    """
    read = [path for path in map(local, _local(reads)) if os.path.exists(path)]  # a verb says what it misses
    with contextlib.ExitStack() as stack:
        looks = [stack.enter_context(_to_write(local(path))) for path in _local(writes)]
        looks += [Look(path, (path, *_names_in(path))) for path in read]
        if not looks:
            return
        answers = ask(looks)
        for number, one in enumerate(looks):
            faults = {node: _fault(found[number]) for node, found in answers.items()}
            unshared = {node: why for node, why in faults.items() if why}
            if unshared:
                raise RequestError(_said(one, unshared), REMEDY)


@contextlib.contextmanager
def _to_write(path: str) -> Iterator[Look]:
    """A file with a random name in the folder, or in the nearest one above that is there."""
    folder = Path(path)
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    marker, content = temporary_name(f"{folder}/shared"), uuid.uuid4().hex
    _put(marker, content)
    try:
        yield Look(path, (marker,), content)
    finally:
        for file in folder.glob(f"{Path(marker).name}*"):
            with contextlib.suppress(OSError):  # what a node wrote as another user may not be ours to remove
                file.unlink()


def _put(file: str, content: str) -> None:
    """Writes a file of the driver; nothing is left where that fails."""
    try:
        Path(file).write_text(content, encoding="utf-8")
    except OSError as fault:
        with contextlib.suppress(OSError):
            os.unlink(file)
        remedy = "free space there or name another out="
        raise ServiceError(
            f"cannot write {os.path.dirname(file)}: {fault.strerror or fault}", remedy
        ) from fault


def _fault(answer: Answer) -> str:
    if not answer.fault and answer.reply and not os.path.exists(answer.reply):
        return "what it writes there is not seen here"
    return answer.fault


def _said(one: Look, unshared: Mapping[str, str]) -> str:
    shown = [f"{node}: {_reason(why)}" for node, why in sorted(unshared.items())[:NODES_SHOWN]]
    more = f", and {len(unshared) - NODES_SHOWN} more" if len(unshared) > NODES_SHOWN else ""
    return f"{one.path} is not the same on every node ({'; '.join(shown)}{more})"


def _reason(why: str) -> str:
    return "not shared with the driver" if why.startswith(".shared") else why


def _names_in(path: str) -> list[str]:
    if not os.path.isdir(path):
        return []
    try:
        with os.scandir(path) as entries:
            names = [entry.path for entry in islice(entries, SAMPLE) if not entry.name.startswith(".")]
    except OSError:
        return []
    return names


def _local(paths: Iterable[str]) -> list[str]:
    return [path for path in dict.fromkeys(paths) if path and "://" not in path]


@dataclass(frozen=True)
class Marker:
    """A file of the driver in the run folder while it works; whoever carries out a part of it must see it."""

    folder: str = ""
    file: str = ""

    def check(self) -> None:
        """For the beginning of work on a node.

        Raises:
            RequestError: the run folder here is not the driver's.
        """
        if self.file and not os.path.exists(self.file):
            host = socket.gethostname()
            raise RequestError(f"{self.folder} on {host} is not the folder of the driver", REMEDY)

    def before(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, which looks first."""

        def checked(*values: Any, **named: Any) -> Any:
            self.check()
            return act(*values, **named)

        return checked


@contextlib.contextmanager
def marked(root: str) -> Iterator[Marker]:
    """Within it the run folder, which is there, holds a marker; nothing for an address such as s3://."""
    if "://" in root:
        yield Marker()
        return
    folder = local(root)
    file = temporary_name(f"{folder}/shared")
    _put(file, "")
    try:
        yield Marker(folder, file)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(file)
