"""Geometry of the report's plots: numbers in data units become positions in an SVG.

The templates draw what these records say; no text of a run passes through here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOG_RATIO = 20.0  # a loss that falls by more than this factor is drawn on a logarithmic axis


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis, in pixels."""

    at: float
    label: str


@dataclass(frozen=True)
class Whisker:
    """A value with its interval: one dot and one line, in pixels; ``series`` picks the colour."""

    series: int
    y: float
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class IntervalPlot:
    """Dots and whiskers of one metric, one row per evaluation, on an axis that ends at ``end``."""

    width: int
    height: int
    left: float
    right: float
    end: str
    grid: tuple[float, ...]
    whiskers: tuple[Whisker, ...]
    published: float | None


@dataclass(frozen=True)
class CurvePlot:
    """A loss curve: the measured line, the smoothed line, and both axes."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    raw: str
    smooth: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    resumed: tuple[float, ...]
    log: bool


def interval_plot(
    values: Sequence[tuple[float, float | None, float | None] | None],
    published: float | None,
    bounds: tuple[float, float] = (0.0, 100.0),
    width: int = 300,
) -> IntervalPlot:
    """Places (value, low, high) of each evaluation; an evaluation without a score has no dot."""
    bottom, top = bounds
    left, right, row = 6.0, width - 36.0, 15

    def x(value: float) -> float:
        return round(left + max(0.0, min((value - bottom) / (top - bottom), 1.0)) * (right - left), 1)

    whiskers = []
    for series, triple in enumerate(values):
        if triple is not None:
            value, low, high = triple
            y = 4 + row * series + row / 2
            edges = (x(value if low is None else low), x(value if high is None else high))
            whiskers.append(Whisker(series, y, x(value), *edges))
    return IntervalPlot(
        width=width,
        height=8 + row * max(1, len(values)),
        left=left,
        right=right,
        end=number(top),
        grid=tuple(x(bottom + (top - bottom) * part / 4) for part in range(5)),
        whiskers=tuple(whiskers),
        published=None if published is None else x(published),
    )


def curve_plot(
    steps: Sequence[int],
    loss: Sequence[float],
    smoothed: Sequence[float],
    resumed: Sequence[int] = (),
    width: int = 400,
    height: int = 230,
) -> CurvePlot | None:
    """Places a loss curve; None when there is nothing to draw. The three sequences are parallel."""
    if not steps:
        return None
    left, right, top, bottom = 48.0, width - 14.0, 14.0, height - 40.0
    shown = [*loss, *smoothed]
    log = min(shown) > 0 and max(shown) / min(shown) > LOG_RATIO
    scale = math.log10 if log else float
    y_values = log_ticks(min(shown), max(shown)) if log else linear_ticks(min(0.0, *shown), max(shown))
    y_low, y_high = scale(min([*y_values, *shown])), scale(max([*y_values, *shown]))
    x_low, x_high = steps[0], max(steps[-1], steps[0] + 1)

    def x(step: float) -> float:
        return round(left + (step - x_low) / (x_high - x_low) * (right - left), 1)

    def y(value: float) -> float:
        span = (y_high - y_low) or 1.0
        return round(bottom - (scale(value) - y_low) / span * (bottom - top), 1)

    x_values = [v for v in linear_ticks(x_low, x_high, 5) if v == int(v) and x_low <= v <= x_high]
    return CurvePlot(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        raw=" ".join(f"{x(s)},{y(v)}" for s, v in zip(steps, loss, strict=True)),
        smooth=" ".join(f"{x(s)},{y(v)}" for s, v in zip(steps, smoothed, strict=True)),
        x_ticks=tuple(Tick(x(v), number(v)) for v in x_values),
        y_ticks=tuple(Tick(y(v), number(v)) for v in y_values),
        resumed=tuple(x(s) for s in resumed if x_low <= s <= x_high),
        log=log,
    )


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover low to high.

    >>> linear_ticks(0, 4.3)
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that cover low to high (powers of ten alone when they are many)."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    every = [round(m * 10.0**p, 12) for p in range(first, last + 1) for m in factors]
    below = [v for v in every if v <= low]
    above = [v for v in every if v >= high]
    return [v for v in every if (not below or v >= below[-1]) and (not above or v <= above[0])]


def number(value: float) -> str:
    """A number without needless digits, thousands separated.

    >>> number(2000.0), number(0.05)
    ('2,000', '0.05')
    """
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
