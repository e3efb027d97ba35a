"""What raypipe exports, and what the expressions of its dashboard ask for: metrics, labels, PromQL."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from raypipe.gauges import Metric
from tests.support import ROOT

MONITORING = ROOT / "cluster/monitoring"
FILE = MONITORING / "grafana/dashboards/raypipe.json"
VERBS = ("prepare", "train", "evaluate", "judge")
NEEDS_A_GPU = {
    "ray_raypipe_train_mfu_ratio",
    "ray_raypipe_train_gpu_memory_peak_bytes",
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
}
NEEDS_OTHER_NODES = {"ray_cluster_pending_nodes", "ray_cluster_failed_nodes"}
_SELECTOR = re.compile(r"\b(ray_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"')
_BY = re.compile(r"\bby \(([^)]*)\)")


def metrics() -> list[Metric]:
    """All that raypipe declares."""
    found: list[Metric] = []
    for verb in VERBS:
        for value in vars(importlib.import_module(f"raypipe.{verb}.gauges")).values():
            values = value.values() if isinstance(value, dict) else [value]
            found += [v for v in values if isinstance(v, Metric)]
    return found


def exported() -> dict[str, Metric]:
    """The same by the names that Prometheus knows."""
    return {name: metric for metric in metrics() for name in metric.exported}


@dataclass(frozen=True)
class Query:
    """One expression of a panel."""

    panel: str
    expr: str

    @property
    def selectors(self) -> list[tuple[str, set[str]]]:
        """Metrics, and the labels that they are chosen by."""
        found = _SELECTOR.findall(self.expr)
        return [(name, set(_MATCHER.findall(inside))) for name, inside in found]

    @property
    def grouped(self) -> set[str]:
        """Labels that are summed by."""
        return {label.strip() for group in _BY.findall(self.expr) for label in group.split(",")}

    @property
    def here(self) -> bool:
        """Whether one node without a GPU has data for it."""
        return not {name for name, _ in self.selectors} & (NEEDS_A_GPU | NEEDS_OTHER_NODES)

    def filled(self, span: str) -> str:
        """The expression as Grafana sends it when all runs are chosen."""
        text = self.expr.replace("$__rate_interval", span)
        return re.sub(r"\$(run|dataset)\b", ".*", text)


def queries(file: Path = FILE) -> list[Query]:
    panels = json.loads(file.read_text())["panels"]
    return [Query(p["title"], t["expr"]) for p in panels for t in p.get("targets", [])]
