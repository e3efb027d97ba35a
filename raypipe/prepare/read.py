"""Annotations -> Clips. A record that cannot be read becomes a Rejection, never an exception."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError, nearest
from raypipe.records import Clip, MediumKind, MediumRef, Reason, Rejection, Turn, fingerprint
from raypipe.settings import DatasetSettings, local
from raypipe.text.chat import ChatError, check_turns


def read_annotations(settings: DatasetSettings) -> tuple[list[Clip], list[Rejection]]:
    """All records of a dataset's annotation files, in order.

    Ids come from content; a record that is there twice gets an id for each occurrence.

    Raises:
        RequestError: the data root or an annotation file is missing, or is not JSON.
    """
    root = Path(local(settings.data_root))
    if not root.is_dir():
        raise RequestError(
            f"no such data root: {root}", "set data_root=... to the folder that holds the media"
        )
    clips: list[Clip] = []
    rejections: list[Rejection] = []
    seen: Counter[str] = Counter()
    for name in settings.annotations:
        for source, record in _records(root, name):
            content = fingerprint(settings.name, record)
            seen[content] += 1
            identifier = content if seen[content] == 1 else fingerprint(content, seen[content])
            try:
                clips.append(read_record(record, identifier, settings.name, source))
            except ChatError as fault:
                detail = f"{source}: {fault.detail}"
                rejections.append(Rejection(identifier, "sample", fault.reason, detail))
    return clips, rejections


def read_record(record: Any, identifier: str, dataset: str, source: str) -> Clip:
    """One record in the LLaVA format: ``image`` and/or ``video`` (a path or several), ``conversations``.

    Raises:
        ChatError: with the typed reason.
    """
    if not isinstance(record, dict):
        raise ChatError(Reason.BAD_RECORD, "not a JSON object")
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ChatError(Reason.BAD_RECORD, "'conversations' is not a list of turns")
    media: list[MediumRef] = []
    for kind in (MediumKind.VIDEO, MediumKind.IMAGE):  # videos stand before images, as in the reference
        paths = record.get(kind.value)
        for path in paths if isinstance(paths, list) else [] if paths is None else [paths]:
            if not isinstance(path, str) or not path or not _encodable(path):
                raise ChatError(Reason.BAD_RECORD, f"'{kind.value}' is not a path")
            media.append(MediumRef(kind, path))
    checked = check_turns([_turn(t) for t in turns], [m.kind for m in media])
    return Clip(identifier, dataset, tuple(media), checked, source)


def _turn(turn: Any) -> Turn:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise ChatError(Reason.BAD_RECORD, "a turn without a text 'value'")
    if not _encodable(turn["value"]):
        raise ChatError(Reason.BAD_RECORD, "a turn holds half a character (a lone surrogate)")
    return Turn(str(turn.get("from")), turn["value"])


def _encodable(text: str) -> bool:
    """Whether a text can be stored: JSON may spell lone surrogates, UTF-8 has no place for them."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _records(root: Path, name: str) -> Iterator[tuple[str, Any]]:
    file = root / name
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError:
        near = [p.relative_to(root).as_posix() for p in root.glob("*/*.json")]
        raise RequestError(f"no such annotation file: {file}", nearest(name, near) if near else "") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise RequestError(f"{file} is not JSON: {fault}") from None
    except OSError as fault:
        raise RequestError(f"cannot read {file}: {fault.strerror}") from None
    if not isinstance(data, list):
        raise RequestError(f"{file} does not hold one JSON array of records")
    for position, record in enumerate(data):
        yield f"{name}#{position}", record
