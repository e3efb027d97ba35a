"""Benchmarks, scores and exports as text for a terminal of 100 columns, and the rows behind the list."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from raypipe import benchmark as benchmarks
from raypipe.benchmark import Benchmark
from raypipe.grading.judging import rubrics_of
from raypipe.report.export import with_upload
from raypipe.report.numbers import count

WIDTH = 100
TITLE = 20  # letters of a title in the list


def score_text(result: Mapping[str, Any]) -> str:
    """What ``raypipe score`` found, the primary metric first."""
    names = sorted(result["metrics"], key=lambda name: name != result["primary"])
    spread = result.get("spread")
    head = ["metric", "value", "95 % interval", "n", "missing", *(["spread"] if spread else [])]
    published = any(name in result["published"] for name in names)
    rows = [[*head, *(["published"] if published else [])]]
    for name in names:
        n, missing = result["counts"][name]
        row = [
            name,
            _number(result["metrics"][name]),
            _interval(result["intervals"][name]),
            count(n),
            count(missing),
        ]
        row += [_number(spread[name])] if spread else []
        rows.append([*row, *([_published(result["published"].get(name))] if published else [])])
    lines = [f"{result['title']}: {_counted(result, 'questions scored')}", "", *_table(rows)]
    return "\n".join([*lines, *_score_notes(result)])


def _score_notes(result: Mapping[str, Any]) -> list[str]:
    notes = []
    if "runs" in result:
        each = ", ".join(_number(run[result["primary"]]) for run in result["runs"])
        notes.append(f"{result['primary']} in {len(result['runs'])} runs of the judge: {each}")
    if "questions_missing" in result:
        notes.append(
            "the questions are those that the verdicts name, compared with nothing, each taken for an image "
            f"of its own: {result['questions_missing']} is not there"
        )
    if set(result["outcomes"]) - {"ok"}:
        notes.append("outcomes: " + ", ".join(f"{k} {count(v)}" for k, v in result["outcomes"].items()))
    if result["published"]:
        notes.append(f"published: {result['published_source']}")
    if result["published_elsewhere"]:
        others = ", ".join(f"{k} {v:g}" for k, v in result["published_elsewhere"].items())
        notes.append(f"published {result['primary']} of others: {others}")
    return ["", *(line for note in notes for line in _wrapped(note))] if notes else []


def unpacked_text(result: Mapping[str, Any]) -> str:
    """What ``raypipe unpack`` wrote, and what it could not, with the reasons."""
    there = f", {count(result['present'])} were there" if "present" in result else ""
    lines = [f"{result['benchmark']}: {count(result['written'])} files written{there}"]
    for name, why in result["refused"].items():
        lines += _wrapped(f"{name}: {why['reason']}: {why['detail']}")
    return "\n".join(lines)


def evaluation_text(result: Mapping[str, Any], out: str) -> str:
    """What ``raypipe evaluate`` found: a line for each metric, or what is still to be done."""
    lines = []
    for name, coverage in result["coverage"].items():
        counted = f"{coverage['counted']} of {coverage['questions']} questions"
        called = f"{name} {coverage.get('split', '')}".rstrip()
        head = f"{called:<16}"
        if coverage["waits_for_judge"]:
            lines.append(f"{head} {counted} answered, not judged: raypipe judge {out} base_url=... model=...")
        elif coverage["answers_only"]:
            lines.append(f"{head} {counted} answered, answers only: {export_command(name, out)}")
        for s in result["benchmarks"].get(name, []):
            value = "-" if s["value"] is None else f"{s['value']:.2f}"
            if s["low"] is not None and s["high"] is not None:
                value += f" [{s['low']:.2f}, {s['high']:.2f}]"
            lines.append(f"{head} {s['metric']:<24} {value:<26} {counted}")
        if coverage.get("flagged"):
            lines.append(f"{head} {count(coverage['flagged'])} answers flagged: they speak to the judge")
    lines += [f"{name:<16} not run, no data: {path}" for name, path in result["missing_benchmarks"].items()]
    if "media" in result:
        media = result["media"]
        taken = f"{count(media['prepared'])} of {count(media['all'])} media out of prepare runs"
        lines.append(f"{'media':<16} {taken}, the others decoded")
    if result.get("certificate"):
        lines.append(f"{'certificate':<16} {certificate_text(result['certificate'])}")
    return "\n".join(lines)


def certificate_text(certificate: Mapping[str, Any]) -> str:
    """How many answers of the sample came out the same when they were made alone."""
    failed = len(certificate["failed"])
    more = f"; {count(failed)} could not be made again" if failed else ""
    same = f"{count(certificate['equal'])} of {count(certificate['asked'])} answers"
    return f"{same} are the same made one at a time{more}"


def export_command(name: str, run: str) -> str:
    """The command that takes a run's answers out of raypipe: for the server, or in the reference's format."""
    form = "" if name in with_upload() else " --format answers"
    return f"raypipe export {name} --run {run}{form} --eval-root ... --out ..."


def export_text(result: Mapping[str, Any]) -> str:
    """What ``raypipe export`` wrote."""
    files = result["files"]
    named = files[0] if len(files) == 1 else f"{len(files)} files, the first is {files[0]}"
    return f"{_counted(result, 'answers')}: {named}"


def _counted(result: Mapping[str, Any], what: str) -> str:
    rest = [f"{count(result[key])} {key}" for key in ("missing", "duplicate", "extra") if result[key]]
    return ", ".join([f"{count(result['n'])} {what}", *rest])


def benchmark_rows() -> list[dict[str, Any]]:
    """Everything that is known of each benchmark, in alphabetical order; of splits the guide's own."""
    return [_row(benchmarks.load(name)) for name in benchmarks.names()]


def graded_by(benchmark: Benchmark) -> str:
    """``rule``, ``judge``, or ``server`` where the right answers are secret."""
    if benchmark.rule is not None:
        return "rule"
    return "judge" if benchmark.rubric or benchmark.verdicts else "server"


def _row(b: Benchmark) -> dict[str, Any]:
    splits = benchmarks.splits(b.name)
    each = [b] if not splits else [benchmarks.load(b.name, split) for split in splits]
    return {
        "name": b.name,
        "title": b.title,
        "media": str(b.media),
        "size": b.size or None,
        "folder": b.folder,
        "files": [[f] if isinstance(f, str) else list(f) for f in b.files],
        "primary": b.primary,
        "graded_by": graded_by(b),
        "rubrics": list(rubrics_of(b.rubric)) if b.rubric else [],
        "stored_verdicts": b.verdicts is not None,
        "published": dict(b.published),
        "published_source": b.published_source,
        "published_elsewhere": dict(b.published_elsewhere),
        "split": b.split,
        "splits": splits,
        "upload": any(one.upload is not None for one in each),
        "source": b.source,
    }


def benchmarks_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The list of benchmarks: one line each, and below it what the columns leave out."""
    cells = [["name", "title", "media", "metric", "graded by", "questions", "published", "upload"]]
    for row in rows:
        published = row["published"].get(row["primary"])
        cells.append(
            [
                row["name"],
                _cut(row["title"]),
                row["media"],
                row["primary"],
                row["graded_by"],
                count(row["size"]) if row["size"] else "",
                _published(published),
                "yes" if row["upload"] else "",
            ]
        )
    lines = [line.rstrip() for line in _table(cells, left=5)]
    sources: dict[str, list[str]] = {}
    for row in rows:
        if row["published"]:
            sources.setdefault(row["published_source"], []).append(row["name"])
    lines += ["", *(f"published: {s}: {', '.join(n)}" for s, n in sources.items())]
    lines += [
        f"splits of {r['name']}: {', '.join(r['splits'])} (default {r['split']})" for r in rows if r["splits"]
    ]
    width = max(len(row["name"]) for row in rows)
    lines += ["", "below the eval root"]
    lines += [f"  {row['name']:<{width}}  {row['folder']}" for row in rows]
    return "\n".join(part for line in lines for part in (_wrapped(line) if line else [""]))


def _cut(title: str) -> str:
    return title if len(title) <= TITLE else f"{title[: TITLE - 1].rstrip()}…"


def _table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Columns as wide as their widest cell; the first ``left`` are words, the others numbers."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            f"{cell:<{width}}" if place < left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _published(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _interval(bounds: Sequence[float | None]) -> str:
    low, high = bounds
    return "-" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def _wrapped(text: str) -> list[str]:
    if len(text) <= WIDTH:
        return [text]
    return textwrap.wrap(
        text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
