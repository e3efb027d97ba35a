"""One measured figure: what was compared with what, the ratio, the target and the verdict."""

from __future__ import annotations

from typing import Any

from bench.pairs import Ratio

Figure = dict[str, Any]


def figure(name: str, a: str, b: str, ratio: Ratio, target: float, **more: Any) -> Figure:
    """A paired ratio (a over b) against its target, as it stands in the file."""
    shown = {k: _short(v) for k, v in vars(ratio).items() if k != "ratios"}
    return {"name": name, "a": a, "b": b, **shown, "target": target, "verdict": ratio.against(target), **more}


def plain(name: str, what: str, value: float, unit: str, target: float | None = None, **more: Any) -> Figure:
    """A figure that is no ratio: one value, at most ``target``."""
    found = "report" if target is None else "met" if value <= target else "missed"
    return {
        "name": name,
        "a": what,
        "value": _short(value),
        "unit": unit,
        "target": target,
        "verdict": found,
        **more,
    }


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")
