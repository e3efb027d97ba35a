"""Annotations -> Clips. A record that cannot be read becomes a Rejection, never an exception."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import Any, cast

from raypipe.errors import RequestError
from raypipe.prepare.formats import Bad, Input, Record, read_array, read_lines, read_video_chatgpt
from raypipe.prepare.root import DataRoot
from raypipe.prepare.seen import Seen
from raypipe.records import Clip, MediumKind, MediumRef, Reason, Rejection, Turn, fingerprint
from raypipe.settings import DatasetSettings
from raypipe.text.chat import TAGS, ChatError, check_turns

READERS = {".json": "llava_json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class Annotations:
    """The records of a dataset's annotation files, in order, as a stream.

    Can be iterated as often as one likes, always with the same result. Memory does not grow with the files,
    but for some 20 bytes a record that tell equal records apart.

    Args:
        settings: names the data root (a folder or an address such as ``s3://bucket/prefix``) and the files.

    Raises:
        RequestError: the data root or a file is missing, or a pattern fits none.
    """

    def __init__(self, settings: DatasetSettings) -> None:
        self.settings = settings
        if settings.reader == "video_chatgpt" and "{video_id}" not in settings.media_path:
            raise RequestError(
                f"media_path={settings.media_path} does not say where a video lies",
                "write {video_id} in it, for example media_path=videos/{video_id}.mp4",
            )
        self._root = DataRoot(settings.data_root)
        self.files = self._root.expand(settings.annotations)
        self._readers = {name: self._reader(name) for name in self.files}
        self._states = {name: self._root.state(name) for name in self.files}
        self._sha256: dict[str, str] = {}
        self._records: dict[str, int] = {}

    def __iter__(self) -> Iterator[Clip | Rejection]:
        """Every record, as a clip or as a rejection with its reason.

        Ids come from content; a record that is there twice gets an id for each occurrence.

        Raises:
            RequestError: a file is not of its format, or is not the file that it was before.
            ServiceError: the storage refused.
        """
        seen = Seen()
        left = self.settings.limit
        for name in self.files:
            self._expect_unchanged(name)
            count = 0
            try:
                with contextlib.closing(self._stream(name)) as records:
                    for place, record in islice(records, left):
                        count += 1
                        yield self._clip(record, f"{name}{self._mark(name)}{place}", seen)
            except RequestError:
                self._expect_unchanged(name)  # half of one file and half of another is of no format
                raise
            self._expect_unchanged(name)
            self._records[name] = count
            left = None if left is None else left - count

    @property
    def fingerprint(self) -> dict[str, str]:
        """The sha256 of each file, by name; known when all records were read once.

        With ``limit`` it is that of what was read of a file, in pieces of some size, up to the last record.
        """
        self._expect_read()
        return dict(self._sha256)

    @property
    def records(self) -> dict[str, int]:
        """How many records each file holds, by name; known when all were read once."""
        self._expect_read()
        return dict(self._records)

    def _stream(self, name: str) -> Generator[Record, None, None]:
        first = name not in self._sha256
        with self._root.open(name) as handle:
            file = Input(name, self._root.where(name), handle)
            with contextlib.suppress(GeneratorExit):  # the limit is reached
                if self._readers[name] == "parquet":  # the one format that is not read from front to end
                    from raypipe.prepare.parquet import read_parquet

                    digest = hashlib.file_digest(cast(Any, handle), "sha256") if first else None
                    handle.seek(0)
                    yield from read_parquet(file)
                else:
                    digest = file.digest = hashlib.sha256() if first else None
                    yield from self._json(name, file)
            if digest is not None:
                self._sha256[name] = digest.hexdigest()

    def _json(self, name: str, file: Input) -> Iterator[Record]:
        if self._readers[name] == "jsonl":
            return read_lines(file)
        if self._readers[name] == "video_chatgpt":
            return read_video_chatgpt(file, self.settings.media_path)
        return read_array(file)

    def _clip(self, record: Any, source: str, seen: Seen) -> Clip | Rejection:
        dataset = self.settings.name
        content = fingerprint(dataset, record.digest if isinstance(record, Bad) else record)
        times = seen.count(bytes.fromhex(content))
        identifier = content if times == 1 else fingerprint(content, times)
        if isinstance(record, Bad):
            return Rejection(identifier, "sample", record.reason, f"{source}: {record.detail}")
        try:
            return read_record(record, identifier, dataset, source)
        except ChatError as fault:
            return Rejection(identifier, "sample", fault.reason, f"{source}: {fault.detail}")

    def _reader(self, name: str) -> str:
        if self.settings.reader != "auto":
            return self.settings.reader
        suffix = f".{name.rpartition('.')[2].lower()}"
        if suffix not in READERS:
            raise RequestError(
                f"{self._root.where(name)}: nothing is known of files in '{suffix}'",
                f"name the format: reader={'|'.join(sorted(set(READERS.values())))}",
            )
        return READERS[suffix]

    def _mark(self, name: str) -> str:
        """Lines are named as editors and compilers name them, positions in an array otherwise."""
        return ":" if self._readers[name] == "jsonl" else "#"

    def _expect_unchanged(self, name: str) -> None:
        if self._root.state(name) != self._states[name]:
            raise RequestError(
                f"{self._root.where(name)} was changed while it was in use", "run the same command again"
            )

    def _expect_read(self) -> None:
        if len(self._records) < len(set(self.files)):
            raise RuntimeError("known only when all records were read")


def read_annotations(settings: DatasetSettings) -> tuple[list[Clip], list[Rejection]]:
    """All records of a dataset at once, for small ones; see ``Annotations``."""
    clips: list[Clip] = []
    rejections: list[Rejection] = []
    for record in Annotations(settings):
        if isinstance(record, Clip):
            clips.append(record)
        else:
            rejections.append(record)
    return clips, rejections


def read_record(record: Any, identifier: str, dataset: str, source: str) -> Clip:
    """One record in the LLaVA format: ``image`` and/or ``video`` (a path or several), ``conversations``.

    A record without either is text only; ``<image>`` and ``<video>`` in it are text.

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
    if not media and any(record.get(kind.value) == [] for kind in MediumKind):
        _expect_no_tags(checked)
    return Clip(identifier, dataset, tuple(media), checked, source)


def _expect_no_tags(turns: Sequence[Turn]) -> None:
    """A tag is text where a record speaks of no media; where it lists none, a file was forgotten."""
    for tag in TAGS:
        if any(tag in turn.text for turn in turns):
            raise ChatError(Reason.BAD_TAGS, f"a tag {tag}, but the record's list of media is empty")


def _turn(turn: Any) -> Turn:
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise ChatError(Reason.BAD_RECORD, "a turn without a text 'value'")
    if "\0" in turn["value"] or not _encodable(turn["value"]):
        raise ChatError(Reason.BAD_RECORD, "a turn holds NUL or half a character (a lone surrogate)")
    return Turn(str(turn.get("from")), turn["value"])


def _encodable(text: str) -> bool:
    """Whether a text can be stored: JSON may spell lone surrogates, UTF-8 has no place for them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
