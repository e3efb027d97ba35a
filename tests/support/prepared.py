"""Prepare runs without Ray: the same units, carried out in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypipe.media.decode import DecodeRequest, MediumError, decode
from raypipe.prepare.plan import Unit
from raypipe.prepare.run import prepare
from raypipe.prepare.work import decode_unit
from raypipe.records import Medium, Rejection
from raypipe.settings import DatasetSettings, DecodeLimits, Rendition
from raypipe.store.files import Store
from raypipe.store.run import Progress
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


def one_by_one(
    units: list[Unit], store: Store, settings: DatasetSettings, progress: Progress | None
) -> list[dict[str, Any]]:
    """The executor: unit after unit."""
    return [decode_unit(unit, store, settings.limits) for unit in units]


def prepared(root: Path, out: Path, **more: Any) -> dict[str, int]:
    """Prepares a dataset in this process; returns the totals."""
    return prepare(dataset(root, out, **more), execute=one_by_one)


def drawn_run(folder: Path) -> Path:
    """Draws a small data root and prepares it; returns the run's folder."""
    data_root(folder / "data")
    prepared(folder / "data", folder / "run")
    return folder / "run"


class NoSandbox:
    """Decodes in this process: the same code without the child's start of half a second."""

    def __init__(self, limits: DecodeLimits) -> None:
        pass

    def __enter__(self) -> NoSandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def decode(self, request: DecodeRequest) -> Medium | Rejection:
        try:
            return decode(request)
        except MediumError as fault:
            return Rejection(request.key, "medium", fault.reason, fault.detail, request.path)


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run that is not temporary."""
    store = Store(str(run))
    return {name: store.read(name) for name in store.list()}
