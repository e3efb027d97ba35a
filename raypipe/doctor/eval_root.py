"""An eval root against the benchmarks: what is there, what is missing, where it is to be had."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.benchmark import Benchmark
from raypipe.errors import RaypipeError, RequestError
from raypipe.eval_mirror import eval_tree
from raypipe.records import Question

SHOWN = 3  # missing media that are named
NOTE = 1000  # characters of an error
NO_SOURCE = "docs/benchmarks.md says where each benchmark's files are to be had"
Tell = Callable[[str], None]


class Presence(StrEnum):
    """How much of a benchmark is below an eval root."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"  # some files are there; not all, or they cannot be used
    ABSENT = "not there"  # no annotation file of it


@dataclass
class BenchmarkReport:
    """One benchmark, or one of its splits, as it lies below the eval root.

    ``files_missing`` names annotation files; ``note`` and ``remedy`` are the error of reading the questions,
    if there is one. ``media`` counts different files, ``missing`` those of them that are not there, and
    ``packed`` those that evaluate will write because they lie inside the annotations.
    """

    name: str
    split: str
    title: str
    folder: str
    source: str
    state: Presence = Presence.COMPLETE
    files_missing: list[str] = field(default_factory=list)
    note: str = ""
    remedy: str = ""
    questions: int = 0
    media: int = 0
    missing: int = 0
    packed: int = 0
    examples: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "state": str(self.state)}


def check_eval_root(root: str, tell: Tell) -> dict[str, Any]:
    """Checks the tree below ``root`` against every benchmark; nothing is written, no medium is opened.

    Args:
        root: a local folder or an ``s3://`` address, laid out as the reference's ``eval``.
        tell: called with a line of progress.

    Returns:
        ``eval_root``; ``ok``, false if a benchmark is incomplete or none is there; and one row of
        ``benchmarks`` each.

    Raises:
        RequestError: no such folder, or nothing at a remote root.
    """
    if "://" in root:
        folders = {benchmarks.load(name).folder for name in benchmarks.names()}
        with eval_tree(root, folders) as tree:
            found = _check_all(tree, tell)
            for report in found:
                report.note = report.note.replace(str(tree), root)
                report.remedy = report.remedy.replace(str(tree), root)
    else:
        tree = Path(root).expanduser().resolve()
        if not tree.is_dir():
            raise RequestError(
                f"no such eval root: {root}", "name the folder laid out as the reference's eval/"
            )
        found = _check_all(tree, tell)
    return {
        "eval_root": root if "://" in root else str(tree),
        "ok": {r.state for r in found} - {Presence.ABSENT} == {Presence.COMPLETE},
        "benchmarks": [r.row() for r in found],
    }


def _check_all(place: Path, tell: Tell) -> list[BenchmarkReport]:
    """One report a benchmark, and of one with several splits one for each that is there."""
    found: list[BenchmarkReport] = []
    for name in benchmarks.names():
        tell(name)
        default = benchmarks.load(name)
        others = [s for s in benchmarks.splits(name) if s != default.split]
        reports = [_check(b, place) for b in (default, *(benchmarks.load(name, s) for s in others))]
        there = [r for r in reports if r.state is not Presence.ABSENT]
        found += there or reports[:1]
    return found


def _check(benchmark: Benchmark, root: Path) -> BenchmarkReport:
    report = BenchmarkReport(
        benchmark.name, benchmark.split, benchmark.title, benchmark.folder, benchmark.source or NO_SOURCE
    )
    needed = [(f,) if isinstance(f, str) else f for f in benchmark.files]
    report.files_missing = [f[0] for f in needed if not any((root / place).is_file() for place in f)]
    if report.files_missing:
        absent = len(report.files_missing) == len(needed)
        report.state = Presence.ABSENT if absent else Presence.INCOMPLETE
        return report
    try:
        questions = benchmark.questions(root)
    except RaypipeError as fault:
        report.state, report.note, report.remedy = Presence.INCOMPLETE, fault.message[:NOTE], fault.remedy
        return report
    except Exception as fault:  # whoever asks the doctor is to hear of the other benchmarks too
        report.state, report.note = Presence.INCOMPLETE, f"{type(fault).__name__}: {str(fault)[:200]}"
        return report
    report.questions = len(questions)
    gone = _look(root, questions, report)
    if benchmark.unpack is not None:
        report.packed = len(gone)
    elif gone:
        report.state = Presence.INCOMPLETE
        report.missing, report.examples = len(gone), gone[:SHOWN]
    return report


def _look(root: Path, questions: Iterable[Question], report: BenchmarkReport) -> list[str]:
    """Counts the media and returns the missing ones; each folder is listed once, however many are in it."""
    by_folder: dict[str, set[str]] = {}
    for question in questions:
        if question.medium is not None:
            path = PurePosixPath(question.medium.path)
            by_folder.setdefault(str(path.parent), set()).add(path.name)
    missing: list[str] = []
    for folder, names in by_folder.items():
        there = _files_in(root / folder)
        missing += [f"{folder}/{name}" for name in names - there]
        report.media += len(names)
    return sorted(missing)


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):
        return set()
