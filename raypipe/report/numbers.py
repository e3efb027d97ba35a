"""How numbers are printed, in the page and in the terminal alike."""

from __future__ import annotations


def decimal(value: float | None, digits: int = 1) -> str:
    """A score as the report prints it; a dash for one that does not exist."""
    return "–" if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A difference with its sign; zero has none."""
    if value is None:
        return "–"
    text = f"{value:+,.{digits}f}".replace("-", "−")
    return text.lstrip("+−") if float(f"{value:.{digits}f}") == 0 else text


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; never rounded up to 100 % or down to 0 %."""
    if value is None:
        return "–"
    shown = round(100 * value, digits)
    step = 10.0**-digits
    if shown >= 100 and value < 1:
        shown = 100 - step
    if shown <= 0 < value:
        shown = step
    return f"{shown:.{digits}f} %".replace(f".{'0' * digits} ", " ") if digits else f"{shown:.0f} %"


def count(value: float | None) -> str:
    """A whole number with its thousands apart; a dash for one that is not known."""
    return "–" if value is None else f"{value:,.0f}"


def probability(value: float | None) -> str:
    """A p value to the digits that matter."""
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
