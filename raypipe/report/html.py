"""Renders a report as one HTML file: no script, no outside address, everything inside it.

Every string of a run is text to the page: the templates escape all of it, class names come from the fixed
sets below and never from data, and the page's own policy forbids scripts and remote content, so that a
model's answer or a judge's reply cannot act.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from raypipe.report.listing import certificate_text
from raypipe.report.numbers import count, decimal, percent, probability, signed
from raypipe.report.plots import CurvePlot, IntervalPlot, curve_plot, interval_plot
from raypipe.report.samples import Strips

TEMPLATES = Path(__file__).parent / "templates"
PAGE, STYLE = "report.html.j2", "report.css"
COLOURS = 6  # evaluation colours in the style sheet
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

MARKS = {"right": "right", "wrong": "wrong", "partial": "partly right", "missing": "no score"}
GROUPS = {
    "gained": "gained",
    "lost": "lost",
    "right": "right",
    "wrong": "wrong",
    "partial": "partly right",
    "missing": "missing",
}


def render(report: Mapping[str, Any], strips: Strips) -> str:
    """The page of a report.

    Args:
        report: what report.json holds.
        strips: the frames of the samples shown (``samples.read_strips``).
    """
    labels = [e["label"] for e in report["evaluations"]]
    benchmarks = report["benchmarks"]
    present = {s["group"] for b in benchmarks for s in b["samples"]}
    plots = {(b["name"], m["metric"]): _intervals(m, labels) for b in benchmarks for m in b["metrics"]}
    return (
        _environment()
        .get_template(PAGE)
        .render(
            report=report,
            labels=labels,
            series={label: position % COLOURS for position, label in enumerate(labels)},
            style=_style(),
            policy=_policy(_style()),
            strips=strips,
            intervals=plots,
            curves=[_curve(t) for t in report["trainings"]],
            judges=_judges(report["evaluations"]),
            marks=MARKS,
            groups=GROUPS,
            shown_groups=[g for g in GROUPS if g in present],
        )
    )


def _policy(style: str) -> str:
    """The content security policy: pictures from the file itself, this one style sheet, nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = ["default-src 'none'", "img-src data:", f"style-src 'sha256-{digest}'"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def _judges(evaluations: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
    """Each judge once, with the labels of the evaluations it judged."""
    found: list[tuple[dict[str, Any], list[str]]] = []
    for evaluation in evaluations:
        judge = evaluation["judge"]
        labels = next((labels for known, labels in found if known == judge), None)
        if labels is not None:
            labels.append(evaluation["label"])
        elif judge["name"]:
            found.append((judge, [evaluation["label"]]))
    return found


def _intervals(metric: Mapping[str, Any], labels: list[str]) -> IntervalPlot:
    found = [metric["scores"][label] for label in labels]
    values = [None if s is None or s["value"] is None else (s["value"], s["low"], s["high"]) for s in found]
    return interval_plot(values, metric["published"], tuple(metric["bounds"]))


def _curve(training: Mapping[str, Any]) -> CurvePlot | None:
    curve = training["curve"]
    return curve_plot(curve["step"], curve["loss"], curve["smoothed"], training["resumed_at"])


@lru_cache(maxsize=1)
def _style() -> str:
    return (TEMPLATES / STYLE).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    for own in (decimal, signed, percent, count, probability):
        environment.filters[own.__name__] = own
    environment.filters["certified"] = certificate_text
    environment.tests["contains"] = lambda text, part: part in text
    return environment


def _visible(value: Any) -> Any:
    """Control characters, which could hide text from a reader, become visible replacement characters."""
    if type(value) is str:
        return CONTROL.sub("�", value)
    return value
