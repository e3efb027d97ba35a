"""The machines a cluster's file asks for, and how the parts of a file are taken out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from raypipe.cluster_files.places import Document, Place
from raypipe.errors import RequestError


@dataclass(frozen=True)
class NodeType:
    """One kind of machine of a cluster.

    Attributes:
        name: as the file calls it.
        cpus: CPUs a node offers to Ray's tasks; None where the file leaves that to Ray.
        gpus: GPUs likewise.
        memory_bytes: memory likewise.
        min_nodes: nodes that are always there.
        max_nodes: nodes at most.
        instance: the cloud's name of the machine type.
        spot: can be taken away at any time.
        head: runs the head of the cluster.
    """

    name: str
    cpus: float | None
    gpus: float | None
    memory_bytes: int | None
    min_nodes: int
    max_nodes: int
    instance: str | None
    spot: bool
    head: bool


T = TypeVar("T")


class Part:
    """A mapping inside a document; what is taken out of it has the type asked for.

    Args:
        path: the file, for messages.
        source: the document.
        place: where in it.
        value: the mapping there.
    """

    def __init__(self, path: str, source: Document, place: Place, value: dict[Any, Any]) -> None:
        self.path, self.source, self.place, self.value = path, source, place, value

    @classmethod
    def of(cls, path: str, source: Document) -> Part:
        return cls(path, source, (), source.value)

    def part(self, key: str) -> Part:
        """The mapping under a key; an empty one where there is none.

        Raises:
            RequestError: it is not a mapping.
        """
        return Part(self.path, self.source, (*self.place, key), self.take(key, dict, {}))

    def parts(self, key: str) -> list[Part]:
        """The mappings of the list under a key; none where there is none.

        Raises:
            RequestError: not a list, or one of it is not a mapping.
        """
        found = []
        for i, value in enumerate(self.take(key, list, [])):
            place = (*self.place, key, i)
            if not isinstance(value, dict):
                raise self.fault(place, "is not a mapping")
            found.append(Part(self.path, self.source, place, value))
        return found

    def take(self, key: str, kind: type[T], default: T) -> T:
        """The value under a key; the default where it is not there or null.

        Raises:
            RequestError: it is of another type.
        """
        value = self.value.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fault((*self.place, key), f"is not {_NAMES[kind]}")
        return value

    def fault(self, place: Place, what: str) -> RequestError:
        return RequestError(
            f"{self.path}, line {self.source.line(place)}: {spelled(place)} {what}",
            "correct it; cluster.yaml and cluster/ show how it is written",
        )


_NAMES: dict[Any, str] = {
    dict: "a mapping",
    list: "a list",
    str: "a text",
    int: "a whole number",
    bool: "true or false",
}


def spelled(place: Place) -> str:
    """A place as one writes it.

    >>> spelled(("docker", "run_options", 2))
    'docker.run_options[2]'
    """
    out = ""
    for step in place:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else step
    return out
