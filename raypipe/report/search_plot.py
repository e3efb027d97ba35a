"""A search as a picture: the metric over the steps of each trial, and against each setting that was searched.

One SVG without scripts or outside files, drawn from the rows of trials.jsonl.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from html import escape
from typing import Any

from raypipe.report.plots import linear_ticks, log_ticks, number

WIDTH, HEAD, CURVES, SMALL = 960, 112, 340, 250  # pixels: of all, heights of title, curves, small panel
COLUMNS = 3
FEW = 4  # an axis with so few different values is marked at these
INK, SOFT, LINE, BEST, REST, EARLY = "#1b1f27", "#5d6675", "#e3e6eb", "#2563d9", "#7b8494", "#c3c9d2"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
Row = dict[str, Any]


class Axis:
    """Numbers, or names, to pixels."""

    def __init__(self, values: Sequence[Any], low: float, high: float, *, log: bool = False) -> None:
        self._ends = (low, high)
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        self.names = [] if plain else sorted({_name(v) for v in values})
        self.log = plain and log and min(values) > 0
        if self.names:
            self._low, self._high = -0.5, len(self.names) - 0.5
            self.ticks = [(float(i), name) for i, name in enumerate(self.names)]
            return
        first, last = min(values), max(values)
        if first == last:
            first, last = (first / 2, last * 2) if self.log else (first - 0.5, last + 0.5)
        few = sorted(set(values)) if len(set(values)) <= FEW < len(values) else []
        marks = few or (_log_marks(first, last) if self.log else linear_ticks(first, last, 5))
        # A little room, so that no dot lies on the frame.
        self._low, self._high = self._scale(first), self._scale(last)
        room = (self._high - self._low) * 0.06
        self._low, self._high = self._low - room, self._high + room
        inside = [m for m in marks if self._low <= self._scale(m) <= self._high]
        self.ticks = [(m, _short(m)) for m in inside]

    def __call__(self, value: Any) -> float:
        place = self.names.index(_name(value)) if self.names and not isinstance(value, float) else value
        part = (self._scale(place) - self._low) / ((self._high - self._low) or 1.0)
        return round(self._ends[0] + part * (self._ends[1] - self._ends[0]), 1)

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.log else float(value)


def search_svg(rows: Sequence[Row], metric: str, mode: str, log_axes: Collection[str] = ()) -> str:
    """The picture of a search.

    Args:
        rows: trials in order of rank, as in trials.jsonl; the first is the winner.
        log_axes: settings that were drawn on a logarithmic scale.
    """
    shown = [r for r in rows if r["curve"]]
    names = list(rows[0]["settings"]) if rows else []
    height = HEAD + CURVES + math.ceil(len(names) / COLUMNS) * (SMALL + 16)
    parts = [_head(rows, metric, mode)]
    if shown:
        parts.append(_curves(shown, metric))
        wide = (WIDTH - 16 * (COLUMNS - 1)) / COLUMNS
        for place, name in enumerate(names):
            left, top = (place % COLUMNS) * (wide + 16), HEAD + CURVES + place // COLUMNS * (SMALL + 16)
            parts.append(_against(shown, metric, name, (left, top, wide), log=name in log_axes))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="{FONT}" font-size="12" fill="{INK}">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _head(rows: Sequence[Row], metric: str, mode: str) -> str:
    counts = {s: sum(r["status"] == s for r in rows) for s in ("done", "stopped early", "failed")}
    told = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    steps = number(sum(r["steps"] for r in rows))
    best = chosen = ""
    if rows and rows[0]["value"] is not None:
        chosen = ", ".join(f"{k} = {_name(v)}" for k, v in rows[0]["settings"].items())
        best = f"best: {rows[0]['value']:.4f} at step {number(rows[0]['at_step'])}"
    legend = [(BEST, "best", True), (REST, "trained to its end", True), (EARLY, "stopped early", False)]
    keys, x = [], 16.0
    for colour, label, full in legend:
        keys.append(_dot(x + 4, 86, colour, full=full) + _text(x + 14, 90, label, SOFT))
        x += 40 + 6.2 * len(label)
    better = "smaller" if mode == "min" else "larger"
    title = f"{metric}, {better} is better: {len(rows)} trials, {told}; {steps} steps in all"
    return (
        _text(16, 26, title, INK, size=15, weight=600)
        + _text(16, 48, best, BEST, weight=600)
        + _text(16, 68, _cut(chosen, 140), BEST)
        + "".join(keys)
    )


def _curves(rows: Sequence[Row], metric: str) -> str:
    left, right, top, bottom = 64.0, WIDTH - 24.0, float(HEAD), HEAD + CURVES - 52.0
    x = Axis([float(s) for r in rows for s, _ in r["curve"]] + [0.0], left, right)
    values = [v for r in rows for _, v in r["curve"]]
    y = Axis(values, bottom, top, log=_wide(values))
    parts = [_frame(x, y, (left, right, top, bottom), "step", metric)]
    for row in reversed(rows):  # the best is drawn last, over the others
        colour, best = _colour(row, rows), row is rows[0]
        points = [(x(float(s)), y(v)) for s, v in row["curve"]]
        line = " ".join(f"{a},{b}" for a, b in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{2.4 if best else 1.4}" '
            f'stroke-linejoin="round"/>'
        )
        full = row["status"] != "stopped early"
        parts += [_dot(a, b, colour, full=full or i < len(points) - 1) for i, (a, b) in enumerate(points)]
    return "".join(parts)


def _against(
    rows: Sequence[Row], metric: str, name: str, place: tuple[float, float, float], *, log: bool
) -> str:
    left, top, wide = place
    inner = (left + 64, left + wide - 12, top + 8, top + SMALL - 52)
    values = [r["settings"][name] for r in rows]
    x = Axis(values, inner[0], inner[1], log=log)
    best = [r["value"] for r in rows]
    y = Axis(best, inner[3], inner[2], log=_wide(best))
    parts = [_frame(x, y, inner, name, metric)]
    for row in reversed(rows):
        full = row["status"] != "stopped early"
        parts.append(_dot(x(row["settings"][name]), y(row["value"]), _colour(row, rows), full=full, size=4.5))
    return "".join(parts)


def _frame(x: Axis, y: Axis, box: tuple[float, float, float, float], below: str, beside: str) -> str:
    left, right, top, bottom = box
    parts = []
    for value, label in y.ticks:
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y(value)}" y2="{y(value)}" stroke="{LINE}"/>')
        parts.append(_text(left - 8, y(value) + 4, label, SOFT, anchor="end"))
    for value, label in x.ticks:
        parts.append(
            f'<line x1="{x(value)}" x2="{x(value)}" y1="{bottom}" y2="{bottom + 4}" stroke="{SOFT}"/>'
        )
        parts.append(_text(x(value), bottom + 18, _cut(label, 18), SOFT, anchor="middle"))
    parts.append(f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="{SOFT}"/>')
    scale = " (log)" if x.log else ""
    parts.append(_text((left + right) / 2, bottom + 38, below + scale, INK, anchor="middle"))
    middle = (top + bottom) / 2
    turned = f'transform="rotate(-90 {left - 50} {middle})"'
    parts.append(_text(left - 50, middle, beside, INK, anchor="middle", more=turned))
    return "".join(parts)


def _colour(row: Row, rows: Sequence[Row]) -> str:
    if row is rows[0]:
        return BEST
    return EARLY if row["status"] == "stopped early" else REST


def _dot(x: float, y: float, colour: str, *, full: bool, size: float = 3.5) -> str:
    inside = colour if full else "#ffffff"
    return f'<circle cx="{x}" cy="{y}" r="{size}" fill="{inside}" stroke="{colour}" stroke-width="1.6"/>'


def _text(
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: int = 400,
    more: str = "",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" {more}>{escape(text)}</text>\n'
    )


def _name(value: Any) -> str:
    if isinstance(value, str):
        return value
    return (
        _short(value) if isinstance(value, int | float) and not isinstance(value, bool) else json.dumps(value)
    )


def _short(value: float) -> str:
    """A number in few characters: 0.0002 is 2e-4."""
    if value == 0 or 0.01 <= abs(value) < 100_000:
        return number(float(f"{value:.4g}"))
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def _log_marks(low: float, high: float) -> list[float]:
    marks = log_ticks(low, high)
    return marks if len(marks) <= 7 else [m for m in marks if f"{m:e}".startswith(("1.0", "3.0"))]


def _wide(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= 20


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
