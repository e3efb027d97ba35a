"""A report and a comparison as tables for the terminal: the numbers of report.json, nothing else."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from raypipe.report.listing import certificate_text
from raypipe.report.numbers import count, decimal, probability, signed

WIDTH = 100
IN_ONE_LINE = 3  # up to so many evaluations a value and its interval share a line
FEW_CATEGORIES = 5  # up to so many categories of the primary metric are shown
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # control, direction
KEPT_TOGETHER = "\u00a0"


def render(report: Mapping[str, Any], width: int = WIDTH, *, every: bool = False) -> str:
    """The report as plain text, the same with and without a terminal.

    Args:
        report: what ``report_runs`` returns.
        width: columns to fill at most.
        every: also the metrics by category (``f1/popular``).
    """
    return _plain(renderable(report, every=every), width)


def render_comparison(comparison: Mapping[str, Any], width: int = WIDTH) -> str:
    """What ``compare`` returns as plain text."""
    return _plain(comparison_renderable(comparison), width)


def renderable(report: Mapping[str, Any], *, every: bool = False) -> RenderableType:
    """The report for a rich console: scores, paired differences, checks, where the files are."""
    parts: list[RenderableType] = [scores_table(report, every=every)]
    changes = [(b["title"], c) for b in report["benchmarks"] for c in b["changes"]]
    if changes:
        parts += [_line("paired differences, in points per question"), _changes_table(changes)]
    if report["checks"]:
        parts += [_line("checks"), _checks_table(report["checks"])]
    for made in report["evaluations"]:
        if made["certificate"]:
            parts.append(_line(f"{made['label']}: {certificate_text(made['certificate'])}"))
    parts += [_line(note) for note in report["notes"]]
    parts.append(_line(report["paths"]["html"]))
    return Group(*parts)


def scores_table(report: Mapping[str, Any], *, every: bool = False) -> Table:
    """One row per metric, one column per evaluation: value and 95 % interval, n and missing."""
    labels = [e["label"] for e in report["evaluations"]]
    benchmarks = report["benchmarks"]
    published = any(m["published"] is not None for b in benchmarks for m in b["metrics"])
    table = _table()
    table.add_column("benchmark / metric", overflow="fold")
    for label in labels:
        table.add_column(_text(label), justify="right", overflow="fold")
    if published:
        table.add_column(Text("published\n7B model"), justify="right")
    table.add_column("n", justify="right")
    table.add_column("missing", justify="right")
    for benchmark in benchmarks:
        table.add_row(Text(benchmark["title"], style="bold"), *[""] * (len(table.columns) - 1))
        for metric in _shown(benchmark["metrics"], every):
            name = f"  {metric['metric']}" if every else _below(metric["metric"])
            table.add_row(Text(name), *_score_cells(metric, labels, published))
        table.add_section()
    return table


def _shown(metrics: Sequence[Mapping[str, Any]], every: bool) -> list[Mapping[str, Any]]:
    """All metrics, or those that fit a terminal: no long lists by category, none without a question."""
    if every:
        return list(metrics)
    primary = next((m["metric"] for m in metrics if m["primary"]), "")
    parts = [m["metric"] for m in metrics if m["metric"].startswith(f"{primary}/")]
    few = parts if len(parts) <= FEW_CATEGORIES else []
    asked = [
        m for m in metrics if m["primary"] or any(s and s["n"] + s["missing"] for s in m["scores"].values())
    ]
    kept = [m for m in asked if "/" not in m["metric"] or m["metric"] in few]
    return sorted(
        kept, key=lambda m: m["metric"].partition("/")[0] != primary
    )  # categories below their metric


def _below(metric: str) -> str:
    """A metric's name in the first column; a category stands indented below its metric."""
    name, _, category = metric.partition("/")
    return f"    {category}" if category else f"  {name}"


def comparison_renderable(comparison: Mapping[str, Any]) -> RenderableType:
    """The comparison for a rich console."""
    table = _table()
    table.add_column("benchmark", overflow="fold")
    table.add_column("metric")
    for name in ("a", "b", "paired, per question"):
        table.add_column(name, justify="right")
    table.add_column("p", justify="right")
    table.add_column("better", justify="right")
    table.add_column("worse", justify="right")
    for row in comparison["benchmarks"]:
        digits = _digits(row["bounds"])
        scores = [Text(decimal((row[side] or {}).get("value"), digits)) for side in ("a", "b")]
        table.add_row(_text(row["title"]), row["metric"], *scores, *_change_cells(row["change"]))
    sides = [_line(f"{side}: {comparison[side]}") for side in ("a", "b")]
    alone = [
        _line(f"only in {side}: {', '.join(comparison[f'only_{side}'])}")
        for side in ("a", "b")
        if comparison[f"only_{side}"]
    ]
    return Group(*sides, table, *alone)


def _score_cells(metric: Mapping[str, Any], labels: Sequence[str], published: bool) -> list[Text]:
    digits = _digits(metric["bounds"])
    found = [metric["scores"][label] for label in labels]
    below = len(labels) > IN_ONE_LINE
    cells = [_with_interval(s, digits, below) for s in found]
    if published:
        cells.append(Text(decimal(metric["published"], digits) if metric["published"] is not None else ""))
    known = [s for s in found if s is not None]
    return [*cells, _each([s["n"] for s in known]), _each([s["missing"] for s in known])]


def _change_cells(change: Mapping[str, Any] | None) -> list[Text]:
    if change is None:
        return [Text("–")] * 4
    low, high = signed(change["low"]), signed(change["high"])
    colour = "green" if change["low"] > 0 else "red" if change["high"] < 0 else ""
    difference = Text(f"{signed(change['difference'])} [{low},{KEPT_TOGETHER}{high}]", style=colour)
    rest = (probability(change["p"]), count(change["gained"]), count(change["lost"]))
    return [difference, *(Text(text) for text in rest)]


def _changes_table(changes: Sequence[tuple[str, Mapping[str, Any]]]) -> RenderableType:
    table = _table()
    table.add_column("benchmark", overflow="fold")
    table.add_column("change", overflow="fold")
    for name in ("difference", "p", "better", "worse"):
        table.add_column(name, justify="right")
    for title, change in changes:
        table.add_row(_text(title), _text(f"{change['to']} − {change['from']}"), *_change_cells(change))
    return table


def _checks_table(checks: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for check in checks:
        mark = Text("passed", style="green") if check["passed"] else Text("FAILED", style="bold red")
        table.add_row(mark, _text(check["name"]), _text(check["detail"]))
    return Padding(table, (0, 0, 0, 2))


def _with_interval(score: Mapping[str, Any] | None, digits: int, below: bool) -> Text:
    """``91.1 [80.7, 96.1]``, the interval below when columns are many; words where there is no score."""
    if score is None:
        return Text("–")
    if score["value"] is None:
        return Text("no score")
    low, high = decimal(score["low"], digits), decimal(score["high"], digits)
    gap = "\n" if below else KEPT_TOGETHER
    return Text(f"{decimal(score['value'], digits)}{gap}[{low},{KEPT_TOGETHER}{high}]")


def _each(values: Sequence[int]) -> Text:
    """One number when all evaluations have the same, else one for each."""
    shown = values if len(set(values)) > 1 else values[:1]
    return Text("/".join(count(v) for v in shown))


def _digits(bounds: Sequence[float]) -> int:
    return 1 if bounds[1] >= 100 else 2


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 1))


def _text(value: str) -> Text:
    """Text of a run: never markup, and without characters that could steer a terminal."""
    return Text(UNSAFE.sub("�", value))


def _line(value: str) -> Padding:
    return Padding(_text(value), (1, 0, 0, 0))


def _plain(what: RenderableType, width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, color_system=None, highlight=False)
    console.print(what)
    lines = (line.rstrip().replace(KEPT_TOGETHER, " ") for line in out.getvalue().splitlines())
    return "\n".join(lines).strip("\n") + "\n"
