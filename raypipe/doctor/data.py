"""A data root against the dataset yamls: what is there, what is missing, where it is to be had."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from raypipe.errors import RequestError
from raypipe.media.source import MediaRoot
from raypipe.prepare.near import nearest_medium
from raypipe.prepare.read import Annotations
from raypipe.prepare.root import DataRoot
from raypipe.records import Clip
from raypipe.settings import DatasetSettings, expanded, load

SHOWN = 3  # examples of each fault
Tell = Callable[[str], None]


class State(StrEnum):
    """What is to be said of one dataset."""

    OK = "ok"
    WITHIN = "within budget"  # some records would be quarantined, no more than the yaml allows
    OVER = "over budget"
    NO_ANNOTATIONS = "no annotations"
    UNREADABLE = "unreadable"
    UNUSED = "not needed"  # not there, and another way to records that the reference has in a file of its own


FINE = (State.OK, State.WITHIN, State.UNUSED)


@dataclass
class DatasetReport:
    """One dataset as it lies below the data root.

    ``lost`` counts the records that prepare would put in quarantine: those that are bad, and those with a
    medium that is missing or empty.
    """

    name: str
    annotations: list[str]
    fetch: str
    error_budget: float
    state: State = State.OK
    note: str = ""
    records: int = 0
    bad: int = 0
    lost: int = 0
    media: int = 0
    missing: int = 0
    empty: int = 0
    folders: dict[str, bool] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of records that would be lost."""
        return self.lost / self.records if self.records else 0.0

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "state": str(self.state), "share": self.share}


def check_data_root(root: str, yamls: list[Path], tell: Tell) -> dict[str, Any]:
    """Checks the tree below ``root`` against each dataset; nothing is written.

    Args:
        root: a folder or an address.
        yamls: the datasets; those that raypipe draws itself are left out.
        tell: called with a line of progress.

    Returns:
        ``data_root``, ``ok`` and one row of ``datasets`` each.

    Raises:
        RequestError: no such data root, or no dataset to check.
        ServiceError: the storage refused.
    """
    where = DataRoot(root)
    wanted = [s for s in (load(DatasetSettings, y) for y in yamls) if s.drawn is None]
    if not wanted:
        raise RequestError("no dataset to check", "name a folder of dataset yamls with --datasets")
    found = [_check(s.model_copy(update={"data_root": root}), tell) for s in wanted]
    return {
        "data_root": where.root,
        "ok": all(r.state in FINE for r in found),
        "datasets": [r.row() for r in found],
    }


def dataset_yamls(folder: str | None) -> list[Path]:
    """The dataset yamls: of a named folder, of ./datasets, or those beside the package.

    Raises:
        RequestError: there are none.
    """
    places = [expanded(folder)] if folder else [Path("datasets"), Path(__file__).parents[2] / "datasets"]
    for place in places:
        found = sorted(p for p in place.glob("*.yaml") if p.name != "benchmarks.yaml")
        if found:
            return found
    raise RequestError(f"no dataset yamls in {places[0]}", "name their folder with --datasets")


def _check(settings: DatasetSettings, tell: Tell) -> DatasetReport:
    report = DatasetReport(settings.name, settings.annotations, settings.fetch, settings.error_budget)
    try:
        annotations = Annotations(settings)
    except RequestError as fault:
        optional = settings.reader == "video_chatgpt"
        report.state = State.UNUSED if optional else State.NO_ANNOTATIONS
        report.note = fault.message + (f"; {fault.remedy}" if fault.remedy else "")
        return report
    try:
        lone, groups = _read(annotations, report, tell)
    except RequestError as fault:
        report.state, report.note = State.UNREADABLE, f"{fault.message}; {fault.remedy}"
        return report
    _look(settings.data_root, lone, groups, report)
    if report.lost:
        report.state = State.OVER if report.share > settings.error_budget else State.WITHIN
    return report


def _read(
    annotations: Annotations, report: DatasetReport, tell: Tell
) -> tuple[Counter[str], list[list[str]]]:
    """Counts the records; returns how many have a medium as their only one, and the media of the others."""
    lone: Counter[str] = Counter()
    groups: list[list[str]] = []
    for record in annotations:
        report.records += 1
        if report.records % 20_000 == 0:
            tell(f"{report.name}: {report.records} records")
        if not isinstance(record, Clip):
            report.bad += 1
            _show(report, "record", record.detail, str(record.reason))
        elif len(record.media) == 1:
            lone[record.media[0].path] += 1
        elif record.media:
            groups.append([m.path for m in record.media])
    return lone, groups


def _look(root: str, lone: Counter[str], groups: list[list[str]], report: DatasetReport) -> None:
    paths = {*lone, *(p for g in groups for p in g)}
    states = MediaRoot(root).states(sorted(paths))
    missing = {p for p, s in states.items() if s.size < 0}
    empty = {p for p, s in states.items() if s.size == 0}
    gone = missing | empty
    report.media, report.missing, report.empty = len(paths), len(missing), len(empty)
    report.lost = report.bad + sum(n for p, n in lone.items() if p in gone)
    report.lost += sum(1 for group in groups if gone.intersection(group))
    tops: dict[str, bool] = {}
    for path in paths:
        top = path.partition("/")[0] if "/" in path else "."
        tops[top] = tops.get(top, False) or path not in missing
    report.folders = dict(sorted(tops.items()))
    for path in sorted(missing)[:SHOWN]:
        _show(report, "missing", path, nearest_medium(root, path) or "no such file")
    for path in sorted(empty)[:SHOWN]:
        _show(report, "empty", path, "it has no bytes")


def _show(report: DatasetReport, what: str, name: str, hint: str) -> None:
    if sum(1 for e in report.examples if e["what"] == what) < SHOWN:
        report.examples.append({"what": what, "name": name, "hint": hint})
