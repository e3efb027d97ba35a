"""A run folder: settings, manifest, data files, quarantine, and the commit record written last."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from raypipe import __version__
from raypipe.errors import DamageError, RequestError
from raypipe.records import Rejection
from raypipe.settings import Settings, how_fields, identity
from raypipe.store.files import Store
from raypipe.store.recording import began
from raypipe.store.shards import sha256

SCHEMA_VERSION = 2  # of run folders; 1 had other indexes, and settings without a hash of their own
SETTINGS, MANIFEST, QUARANTINE, COMMIT = "settings.json", "manifest.json", "quarantine.jsonl", "commit.json"


@dataclass(frozen=True)
class FileEntry:
    """A data file of a run, as the manifest lists it."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass
class Manifest:
    """What a run holds and what became of its inputs: inputs = ok + quarantined, always."""

    kind: str
    files: list[FileEntry]
    totals: dict[str, int]
    inputs: dict[str, Any] = field(default_factory=dict)
    parents: list[dict[str, str]] = field(default_factory=list)
    software: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "software": {"raypipe": __version__, **self.software},
            "inputs": self.inputs,
            "files": [vars(f) for f in sorted(self.files, key=lambda f: f.path)],
            "totals": self.totals,
            "parents": self.parents,
            "facts": self.facts,
        }


class Run:
    """One run folder.

    A run is started with its settings; started again with the same identity it continues, with
    another it is refused. It is complete when its commit record is there.
    """

    def __init__(self, root: str) -> None:
        self.store = Store(root)

    @classmethod
    def start(cls, root: str, kind: str, settings: Settings) -> Run:
        """Opens the folder for this work, new or to be continued.

        Raises:
            RequestError: the folder holds another run.
        """
        run = cls(root)
        mine: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            "identity": identity(settings),
            "raypipe": __version__,
            "settings": settings.model_dump(mode="json"),
        }
        mine["sha256"] = sha256(_dump(mine))  # nothing else vouches for this file
        if run.store.put_new(SETTINGS, _dump(mine)):
            began(run.store.root)
            return run
        run.check_identity(kind, settings)
        if run.settings != mine:  # how it is carried out has changed
            run.store.replace(SETTINGS, _dump(mine))
        began(run.store.root)
        return run

    @classmethod
    def open(cls, root: str, kind: str | None = None, *, complete: bool = True) -> Run:
        """Opens an existing run.

        Raises:
            RequestError: not a run folder, of another kind, or not complete yet.
        """
        run = cls(root)
        if not run.store.exists(SETTINGS):
            raise RequestError(
                f"not a run folder: {run.store.root or '/'}", "give the out= folder of a raypipe run"
            )
        run.check_version()
        if kind and run.kind != kind:
            raise RequestError(
                f"{run.store.root} is a run of {run.kind}, and this takes one of {kind}",
                f"give the out= folder of raypipe {kind}",
            )
        if complete and not run.complete:
            raise RequestError(
                f"{run.store.root} is not finished", f"run the same {run.kind} command again; it continues"
            )
        return run

    def check_identity(self, kind: str, settings: Settings) -> None:
        """Refuses to be continued with other settings.

        Raises:
            RequestError: the folder holds another run.
        """
        there = self.settings
        self.check_version()
        if there.get("kind") != kind:
            raise RequestError(
                f"{self.store.root} holds a run of {there.get('kind')}, and this is one of {kind}",
                "name another out=, or remove that folder to start over",
            )
        if there.get("identity") != identity(settings):
            changed = _changed(there.get("settings", {}), settings.model_dump(mode="json"), settings)
            raise RequestError(
                f"{self.store.root} holds another {there.get('kind')} run (differs in: {changed})",
                "name another out=, or remove that folder to start over",
            )

    @property
    def settings(self) -> dict[str, Any]:
        return self._json(SETTINGS)

    def check_version(self) -> None:
        """Refuses a folder of another format; one that is damaged there is left to verify.

        Raises:
            RequestError: naming the raypipe that wrote it.
        """
        try:
            body = self.settings
        except DamageError:
            return
        version = body.get("schema_version")
        other = isinstance(version, int) and version != SCHEMA_VERSION
        if other and ("sha256" not in body or self.settings_are_whole()):
            raise RequestError(
                f"{self.store.root} was made by raypipe {body.get('raypipe')} in format {version}; raypipe "
                f"{__version__} reads format {SCHEMA_VERSION}",
                "use that raypipe, or make the run again in another folder",
            )

    def commit_is_whole(self) -> bool:
        """Whether commit.json is, to the byte, what was written."""
        return self.store.read(COMMIT) == _dump(self.commit_record)

    def settings_are_whole(self) -> bool:
        """Whether settings.json is, to the byte, what was written."""
        body = self.settings
        rest = {k: v for k, v in body.items() if k != "sha256"}
        return self.store.read(SETTINGS) == _dump(body) and sha256(_dump(rest)) == body.get("sha256")

    def restate(self, **changed: Any) -> None:
        """Writes down that the work is carried out in another way; never what makes another run of it."""
        body = self.settings
        body["settings"] |= changed
        rest = {k: v for k, v in body.items() if k != "sha256"}
        self.store.replace(SETTINGS, _dump({**rest, "sha256": sha256(_dump(rest))}))

    @property
    def kind(self) -> str:
        return str(self.settings.get("kind"))

    @property
    def manifest(self) -> dict[str, Any]:
        return self._json(MANIFEST)

    @property
    def complete(self) -> bool:
        return self.store.exists(COMMIT)

    @property
    def commit_record(self) -> dict[str, Any]:
        return self._json(COMMIT)

    def reopen(self) -> None:
        """Takes the commit record back, before anything that it vouches for is changed."""
        self.store.delete(COMMIT)

    def commit(self, manifest: Manifest, quarantine: Iterable[Rejection] = ()) -> None:
        """Writes quarantine and manifest, then the commit record, in this order."""
        rows = [json.dumps(r.row(), sort_keys=True, ensure_ascii=False) for r in quarantine]
        lines = ("\n".join(sorted(rows)) + "\n" if rows else "").encode()
        body = _dump(manifest.body())
        self.store.replace(QUARANTINE, lines)
        self.store.replace(MANIFEST, body)
        record = {"manifest_sha256": sha256(body), "quarantine_sha256": sha256(lines)}
        self.store.replace(COMMIT, _dump(record))

    def entry(self, name: str, rows: int) -> FileEntry:
        """The manifest entry of a file as it lies there now."""
        return FileEntry(name, rows, *self.store.measure(name))

    def quarantine(self) -> list[dict[str, str]]:
        if not self.store.exists(QUARANTINE):
            return []
        # Not splitlines: a path may hold U+2028 and the like, which JSON leaves as they are.
        return [json.loads(line) for line in self.store.read(QUARANTINE).decode().split("\n") if line]

    def lineage(self) -> dict[str, str]:
        """How a child run names this one as its parent."""
        return {
            "run": self.store.root,
            "kind": self.kind,
            "manifest_sha256": self.commit_record["manifest_sha256"],
        }

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self.store.read(name))
        except FileNotFoundError:
            remedy = "run the verb that wrote it again"
            raise DamageError(f"{self.store.root}/{name} is missing", remedy) from None
        except ValueError as fault:
            raise DamageError(f"{self.store.root}/{name} is damaged ({str(fault)[:120]})") from None
        if not isinstance(value, dict):
            raise DamageError(f"{self.store.root}/{name} is damaged (not an object)")
        return value


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _changed(old: dict[str, Any], new: dict[str, Any], settings: Settings) -> str:
    how = how_fields(type(settings))
    keys = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k) and k not in how]
    return ", ".join(keys[:6]) or "version"


Progress = Callable[[int, int], None]
