"""The run in one picture: loss, validation loss, rate and speed over the steps, as a PNG."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from raypipe.report.curves import resumed_at, thin
from raypipe.report.plots import LOG_RATIO, linear_ticks, log_ticks, number
from raypipe.store.files import Store
from raypipe.store.journal import parsed
from raypipe.terminal import duration

PICTURE = "curves.png"
SHARP = 2  # drawn this much larger, for screens that show it
FINE = 2  # and this much again, then made smaller: lines without steps
WIDTH, HEIGHT = 1000, 640
POINTS = 1200
INK, GREY, GRID, PAPER = (40, 44, 52), (112, 118, 128), (228, 231, 236), (255, 255, 255)
FAINT, LINE, OTHER = (176, 203, 236), (29, 97, 175), (201, 92, 24)
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One line of a panel; ``dots`` marks its points, ``faint`` puts it behind the others."""

    name: str
    points: Sequence[Point]
    colour: tuple[int, int, int]
    dots: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Panel:
    """A plot in the picture: its box in pixels (left, top, right, bottom), its curves and axes."""

    title: str
    box: tuple[int, int, int, int]
    curves: Sequence[Curve]
    first: float
    last: float
    marks: Sequence[int] = ()  # steps at which another attempt took over
    from_zero: bool = True


def validation_rows(store: Store) -> list[dict[str, Any]]:
    """The rows of validation.jsonl; none where nothing was held out."""
    if not store.exists("validation.jsonl"):
        return []
    return [row for row in parsed(store.read("validation.jsonl")) if row is not None]


def picture(rows: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]], title: str) -> bytes:
    """Draws a run.

    Args:
        rows: of metrics.jsonl, in order of steps.
        validation: rows with ``step`` and ``loss``.

    Returns:
        a PNG of 2,000 x 1,280 pixels.
    """
    loss = _points(rows, "loss")
    speed = _points(rows, "tokens_s")
    held = _points(validation, "loss")
    first, last = (rows[0]["step"], rows[-1]["step"]) if rows else (0, 1)
    marks = resumed_at(rows)
    losses = [Curve("each step", loss, FAINT, faint=True), Curve("smoothed", _centred(loss), LINE)]
    if held:
        losses.append(Curve("validation", held, OTHER, dots=True))
    hand = _Hand(f"{title}: {_summary(rows)}")
    hand.panel(Panel("loss", (70, 78, 970, 370), losses, first, last, marks))
    rates = [Curve("", _points(rows, "lr"), LINE)]
    hand.panel(Panel("learning rate", (70, 440, 490, 590), rates, first, last, marks))
    speeds = [Curve("each step", speed, FAINT, faint=True), Curve("smoothed", _centred(speed), LINE)]
    hand.panel(Panel("tokens per second", (580, 440, 970, 590), speeds, first, last, marks))
    return hand.png()


def _points(rows: Sequence[dict[str, Any]], key: str) -> list[Point]:
    found = [(row["step"], row.get(key)) for row in rows]
    real = [(float(s), float(v)) for s, v in found if isinstance(v, int | float) and math.isfinite(v)]
    return [real[i] for i in thin(len(real), POINTS)]


def _centred(points: Sequence[Point], share: float = 0.02) -> list[Point]:
    """Means of each point and its neighbours, over about a fiftieth of the run; it lags behind nothing."""
    values = [v for _, v in points]
    reach = max(1, round(len(values) * share / 2))
    sums = [0.0, *itertools.accumulate(values)]
    out = []
    for place, (step, _) in enumerate(points):
        side = min(reach, place, len(values) - 1 - place)
        out.append((step, (sums[place + side + 1] - sums[place - side]) / (2 * side + 1)))
    return out


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "no steps"
    tokens = sum(row.get("tokens") or 0 for row in rows)
    took = duration(sum(row.get("step_s") or 0 for row in rows))
    return f"{rows[-1]['step']:,} steps, {tokens:,} tokens, {took}"


class _Hand:
    """Draws on a large canvas in the coordinates of the small one."""

    def __init__(self, title: str) -> None:
        self._scale = SHARP * FINE
        self._image = Image.new("RGB", (WIDTH * self._scale, HEIGHT * self._scale), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._fonts: dict[float, Any] = {}
        self._text(70, 32, title, 19, INK, "lm")

    def panel(self, panel: Panel) -> None:
        left, top, right, bottom = panel.box
        self._text(left, top - 16, panel.title, 14, INK, "lm")
        values = [v for curve in panel.curves for _, v in curve.points]
        if not values:
            self._text((left + right) / 2, (top + bottom) / 2, "nothing measured", 13, GREY, "mm")
            return
        log = min(values) > 0 and max(values) / min(values) > LOG_RATIO and panel.title == "loss"
        scale = math.log10 if log else float
        floor = min(0.0, *values) if panel.from_zero else min(values)
        ticks = log_ticks(min(values), max(values)) if log else linear_ticks(floor, max(values), 4)
        low, high = scale(min(*ticks, *values)), scale(max(*ticks, *values))
        span = max(panel.last - panel.first, 1.0)

        def x(step: float) -> float:
            return left + (step - panel.first) / span * (right - left)

        def y(value: float) -> float:
            return bottom - (scale(value) - low) / ((high - low) or 1.0) * (bottom - top)

        for tick in ticks:
            self._line([(left, y(tick)), (right, y(tick))], GRID, 1)
            self._text(left - 8, y(tick), _short(tick), 12, GREY, "rm")
        for step in linear_ticks(panel.first, panel.last, (right - left) // 90):
            if step == int(step) and panel.first <= step <= panel.last:
                self._text(x(step), bottom + 8, number(step), 12, GREY, "mt")
        self._text(right, bottom + 24, "step", 12, GREY, "rt")
        for step in panel.marks:
            self._dashes(x(step), top, bottom)
        for curve in panel.curves:
            placed = [(x(s), y(v)) for s, v in curve.points]
            self._line(placed, curve.colour, 1 if curve.faint else 2)
            for px, py in placed if curve.dots or len(placed) == 1 else []:
                self._dot(px, py, curve.colour)
        self._legend(panel)

    def png(self) -> bytes:
        out = io.BytesIO()
        small = self._image.resize((WIDTH * SHARP, HEIGHT * SHARP), Image.Resampling.LANCZOS)
        small.save(out, "PNG", optimize=True)
        return out.getvalue()

    def _legend(self, panel: Panel) -> None:
        at = float(panel.box[2])
        entries = [(c.name, c.colour) for c in panel.curves if c.name and c.points]
        wide = panel.box[2] - panel.box[0] > 500
        entries += [("started again", GREY)] if panel.marks and wide else []
        for name, colour in reversed(entries if len(entries) > 1 else []):
            self._text(at, panel.box[1] - 16, name, 12, GREY, "rm")
            at -= self._font(12).getlength(name) / self._scale + 8
            self._line([(at - 18, panel.box[1] - 16), (at, panel.box[1] - 16)], colour, 3)
            at -= 34

    def _line(self, points: Sequence[Point], colour: tuple[int, int, int], width: float) -> None:
        if len(points) > 1:
            placed = [(px * self._scale, py * self._scale) for px, py in points]
            self._draw.line(placed, colour, round(width * self._scale), joint="curve")

    def _dashes(self, x: float, top: float, bottom: float) -> None:
        for part in range(math.floor(top), math.floor(bottom), 8):
            self._line([(x, part), (x, min(part + 4, bottom))], GREY, 1)

    def _dot(self, x: float, y: float, colour: tuple[int, int, int], radius: float = 3.5) -> None:
        box = [(v + d) * self._scale for v, d in ((x, -radius), (y, -radius), (x, radius), (y, radius))]
        self._draw.ellipse(box, colour, PAPER, self._scale)

    def _text(
        self, x: float, y: float, text: str, size: float, colour: tuple[int, int, int], anchor: str
    ) -> None:
        place = (x * self._scale, y * self._scale)
        self._draw.text(place, text, colour, self._font(size), anchor=anchor)

    def _font(self, size: float) -> Any:
        if size not in self._fonts:
            self._fonts[size] = ImageFont.load_default(size * self._scale)
        return self._fonts[size]


def _short(value: float) -> str:
    """A tick's label: 0.0002 as 2e-4, 12000 as 12k."""
    if value and abs(value) < 1e-3:
        mantissa, power = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(power)}"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else number(value)
