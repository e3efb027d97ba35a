"""Prepare runs without Ray: the same units, carried out in this process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raypipe.media.decode import DecodeRequest, MediumError, decode
from raypipe.prepare.held import Record
from raypipe.prepare.run import prepare
from raypipe.prepare.units import UnitRef
from raypipe.prepare.work import Work
from raypipe.records import Medium, Rejection
from raypipe.settings import DatasetSettings, DecodeLimits, Rendition
from raypipe.store.files import Store
from raypipe.store.lease import FOLDER
from raypipe.store.recording import FOLDER as LOGS
from tests.support.clips import data_root

RENDITION = Rendition(short_side=32, codec="lossless")


def dataset(root: Path, out: Path, **more: Any) -> DatasetSettings:
    """Settings of a dataset below ``root`` with one annotation file."""
    values: dict[str, Any] = {
        "name": "drawn",
        "data_root": str(root),
        "annotations": ["tune.json"],
        "out": str(out),
        "rendition": RENDITION,
        "media_per_shard": 3,
    }
    return DatasetSettings(**{**values, **more})


def one_by_one(units: Sequence[UnitRef], work: Work) -> Iterator[Record]:
    """The executor: unit after unit."""
    return map(work, units)


def prepared(root: Path, out: Path, **more: Any) -> dict[str, int]:
    """Prepares a dataset in this process; returns the totals."""
    return prepare(dataset(root, out, **more), execute=one_by_one)


def drawn_run(folder: Path) -> Path:
    """Draws a small data root and prepares it; returns the run's folder."""
    data_root(folder / "data")
    prepared(folder / "data", folder / "run")
    return folder / "run"


def steady_root(root: Path) -> list[dict[str, Any]]:
    """Draws a small data root whose files always have the same time of change; returns its records."""
    records = data_root(root)
    for file in (p for p in root.rglob("*") if p.is_file()):
        os.utime(file, (1e9, 1e9))
    return records


def steady_run(folder: Path) -> Path:
    """The same, with media whose names, and so the order of training, do not hang on place and time."""
    steady_root(folder / "data")
    with contextlib.chdir(folder):
        prepared(Path("data"), folder / "run")
    return folder / "run"


class NoSandbox:
    """Decodes in this process: the same code without the child's start of half a second."""

    def __init__(self, limits: DecodeLimits) -> None:
        pass

    def decode_all(self, requests: Iterable[DecodeRequest]) -> Iterator[Medium | Rejection]:
        return map(self.decode, requests)

    def decode(self, request: DecodeRequest) -> Medium | Rejection:
        try:
            return decode(request)
        except MediumError as fault:
            return Rejection(request.key, "medium", fault.reason, fault.detail, request.path)


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run that is not temporary; who was at work on it when does not count."""
    store = Store(str(run))
    others = (f"{FOLDER}/", f"{LOGS}/")
    return {name: store.read(name) for name in store.list() if not name.startswith(others)}
