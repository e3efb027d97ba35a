"""Yaml as plain data, and the line each value stands in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raypipe.errors import RequestError
from raypipe.settings.base import PlainLoader, expanded

SMALLER = "name the file that ray up or kubectl takes"
MEND = "mend that line; nothing else of the file was looked at"
MAX_BYTES = 2_000_000
MAX_NODES = 100_000  # with each alias written out

Place = tuple[str | int, ...]  # the keys and list positions from the top of a document to a value


class _Loader(PlainLoader):
    """As for settings, but aliases are taken: files for Ray and Kubernetes have them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        return yaml.SafeLoader.compose_node(self, parent, index)


@dataclass(frozen=True)
class Document:
    """One document of a yaml file.

    Attributes:
        value: the plain data.
        lines: place -> line, counted from 1; of a mapping or a list the line of its key, of what an alias
            stands for the line of the anchor.
    """

    value: Any
    lines: dict[Place, int] = field(repr=False)

    def line(self, place: Place) -> int:
        """The line of a place; of one that is not in the file, the line of what would hold it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_documents(path: str | Path) -> tuple[Document, ...]:
    """The documents of a yaml file; empty ones are left out.

    Raises:
        RequestError: missing, unreadable, larger than a cluster's file can be, not yaml, a key that is there
            twice.
    """
    path = path or "''"  # Path("") would be this folder
    file = expanded(path)
    try:
        with file.open("rb") as stream:
            held = stream.read(MAX_BYTES + 1)
        if len(held) > MAX_BYTES:
            raise RequestError(
                f"{path} is larger than {MAX_BYTES:,} bytes; this is no cluster's file", SMALLER
            )
        text = held.decode()
    except FileNotFoundError:
        raise RequestError(f"no such file: {path}", "give the path of a cluster's yaml file") from None
    except (OSError, UnicodeDecodeError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "it is no text in UTF-8"
        raise RequestError(f"cannot read {path}: {why}", "give the path of a cluster's yaml file") from None
    try:
        return tuple(_documents(text, str(path)))
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        said = getattr(fault, "problem", None) or str(fault)
        raise RequestError(f"{where}: not valid yaml: {' '.join(said.split())[:200]}", MEND) from None
    except (RecursionError, ValueError) as fault:  # ValueError: a date that is none
        raise RequestError(f"{path} is not valid yaml: {str(fault)[:200]}", MEND) from None


def _documents(text: str, path: str) -> Iterator[Document]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node: Any = loader.get_node()
            lines: dict[Place, int] = {}
            for place, line in _walk(node, (), node.start_mark.line + 1):
                lines.setdefault(place, line)
                if len(lines) > MAX_NODES:
                    raise RequestError(
                        f"{path} holds more than {MAX_NODES:,} values; this is no cluster's file", SMALLER
                    )
            value = loader.construct_document(node)
            if value is not None:
                yield Document(value, lines)
    finally:
        loader.dispose()


def _walk(node: Any, place: Place, line: int) -> Iterator[tuple[Place, int]]:
    yield place, line
    if isinstance(node, yaml.MappingNode):
        merged: list[Any] = []
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":  # <<: what it brings belongs to this mapping
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                mark = value.start_mark if isinstance(value, yaml.ScalarNode) else key.start_mark
                yield from _walk(value, (*place, str(key.value)), mark.line + 1)
        for value in merged:
            yield from _walk(value, place, line)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _walk(value, (*place, i), value.start_mark.line + 1)
