"""Writes grafana/dashboards/raypipe.json. A panel is a line below: title, unit, queries with their legends.

python cluster/monitoring/make_dashboard.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "grafana/dashboards/raypipe.json"
RUN = 'run=~"$run"'
DATA = 'run=~"$run",dataset=~"$dataset"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
TASKS = "Map.+|validate .+|export .+|RayTrainWorker.+|JudgeActor.+"  # without Ray's own
ACTORS = "MapWorker.+|RayTrainWorker|JudgeActor|StageTrial"
WIDTH, HEIGHT, COLUMNS = 8, 7, 3


@dataclass(frozen=True)
class Panel:
    """``queries`` are pairs of PromQL and legend; ``gpu``: there is data only where there are GPUs."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    text: str = ""
    most: float | None = None
    gpu: bool = False


def rate(name: str, by: str, where: str = RUN) -> str:
    return f"sum by ({by}) (rate(ray_raypipe_{name}_total{{{where}}}[$__rate_interval]))"


def total(name: str, by: str, where: str = RUN) -> str:
    return f"sum by ({by}) (ray_raypipe_{name}_total{{{where}}})"


def now(name: str, by: str = "run", where: str = RUN) -> str:
    return f"max by ({by}) (ray_raypipe_{name}{{{where}}})"


def share(part: str, whole: str) -> str:
    """Nothing counted yet is a share of 0 where there is a whole."""
    return f"({part} or 0 * {whole}) / {whole}"


def quantiles(name: str) -> tuple[tuple[str, str], ...]:
    counts = f"sum by (run, le) (rate(ray_raypipe_{name}_bucket{{{RUN}}}[$__rate_interval]))"
    return tuple(
        (f"histogram_quantile({q}, {counts})", f"{{{{run}}}} {said}")
        for q, said in ((0.5, "median"), (0.95, "95 %"))
    )


PREPARE = (
    Panel("Frames stored", "suffix: frames/s", ((rate("prepare_frames", "run", DATA), "{{run}}"),)),
    Panel(
        "Media by outcome",
        "suffix: media/s",
        ((rate("prepare_media", "run, outcome", DATA), "{{run}} {{outcome}}"),),
        "ok, or the reason of the quarantine",
    ),
    Panel(
        "Share in quarantine",
        "percentunit",
        (
            (
                share(
                    total("prepare_media", "run", DATA + ',outcome!="ok"'),
                    total("prepare_media", "run", DATA),
                ),
                "{{run}}",
            ),
        ),
        "Of all media since the cluster was started. A run over its error_budget ends with exit code 3.",
    ),
    Panel(
        "Bytes",
        "Bps",
        (
            (rate("prepare_source_bytes", "run", DATA), "{{run}} read"),
            (rate("prepare_stored_bytes", "run", DATA), "{{run}} stored"),
        ),
    ),
    Panel(
        "CPU tasks at work",
        "none",
        ((rate("prepare_work_seconds", "run", DATA), "{{run}}"),),
        "Tasks that decode, on average. Far below the CPUs: storage is slow, or concurrency= is set.",
    ),
    Panel("Media left", "none", ((now("prepare_remaining_media", "run", DATA), "{{run}}"),)),
)
TRAIN = (
    Panel(
        "Loss",
        "none",
        ((now("train_loss"), "{{run}}"), (now("train_validation_loss"), "{{run}} validation")),
    ),
    Panel(
        "Tokens",
        "suffix: tokens/s",
        ((now("train_tokens_per_second"), "{{run}}"),),
        "Of all workers together.",
    ),
    Panel(
        "MFU",
        "percentunit",
        ((now("train_mfu_ratio"), "{{run}}"),),
        "Useful operations over the GPUs' peak. On CPUs there is none.",
        gpu=True,
    ),
    Panel(
        "Waiting for data",
        "percentunit",
        ((now("train_data_wait_ratio"), "{{run}}"),),
        "Share of the steps' time. Above some percent: more loader threads, or shards nearer by.",
        most=1,
    ),
    Panel("Step time", "s", quantiles("train_step_seconds")),
    Panel("Samples", "suffix: samples/s", ((now("train_samples_per_second"), "{{run}}"),)),
    Panel(
        "Progress",
        "percentunit",
        ((f"{now('train_step')} / {now('train_planned_steps')}", "{{run}}"),),
        most=1,
    ),
    Panel("Time left", "s", ((now("train_remaining_seconds"), "{{run}}"),)),
    Panel(
        "Workers, restarts, checkpoints",
        "none",
        (
            (now("train_workers"), "{{run}} workers"),
            (now("train_restarts"), "{{run}} restarts"),
            (total("train_checkpoints", "run"), "{{run}} checkpoints"),
        ),
    ),
    Panel("Learning rate", "sci", ((now("train_learning_rate"), "{{run}}"),)),
    Panel("Gradient norm", "none", ((now("train_gradient_norm"), "{{run}}"),)),
    Panel("Tokens that are no padding", "percentunit", ((now("train_useful_ratio"), "{{run}}"),), most=1),
    Panel(
        "Most GPU memory of rank 0",
        "bytes",
        ((now("train_gpu_memory_peak_bytes"), "{{run}}"),),
        "What tensors took.",
        gpu=True,
    ),
)
EVALUATE = (
    Panel(
        "Questions",
        "suffix: questions/s",
        ((rate("evaluate_questions", "run, benchmark"), "{{run}} {{benchmark}}"),),
    ),
    Panel(
        "Actors busy",
        "percentunit",
        (
            (
                share(
                    rate("evaluate_actor_seconds", "run", RUN + ',state="busy"'),
                    rate("evaluate_actor_seconds", "run"),
                ),
                "{{run}}",
            ),
        ),
        "Share of the model actors' time in which they answer. Low: reading media holds them up.",
        most=1,
    ),
    Panel(
        "Questions by outcome",
        "none",
        ((total("evaluate_questions", "run, outcome"), "{{run}} {{outcome}}"),),
        "Since the cluster was started.",
    ),
    Panel("Tokens generated", "suffix: tokens/s", ((rate("evaluate_new_tokens", "run"), "{{run}}"),)),
    Panel(
        "Media read",
        "suffix: media/s",
        ((rate("evaluate_media", "run, outcome"), "{{run}} {{outcome}}"),),
    ),
    Panel("Time to answer a unit", "s", quantiles("evaluate_unit_seconds")),
    Panel("Questions left", "none", ((now("evaluate_remaining_questions"), "{{run}}"),)),
    Panel(
        "Time of actors",
        "s",
        ((total("evaluate_actor_seconds", "run, state"), "{{run}} {{state}}"),),
        "load: the model is being loaded.",
    ),
)
JUDGE = (
    Panel(
        "Calls under way",
        "none",
        (
            (now("judge_in_flight", "run, judge"), "{{run}} {{judge}}"),
            (now("judge_allowed", "run, judge"), "{{run}} {{judge}} allowed"),
        ),
        "Fewer are allowed after the endpoint has refused some for being too many.",
    ),
    Panel(
        "Verdicts",
        "suffix: verdicts/s",
        ((rate("judge_verdicts", "run, outcome"), "{{run}} {{outcome}}"),),
    ),
    Panel(
        "Calls by their end",
        "suffix: calls/s",
        ((rate("judge_calls", "run, end"), "{{run}} {{end}}"),),
        "limited: 429; passing: timeouts, 5xx, broken connections. Both are tried again.",
    ),
    Panel(
        "Spent",
        "currencyUSD",
        (
            (now("judge_spent_usd", "run, judge"), "{{run}} {{judge}}"),
            (now("judge_ceiling_usd", "run, judge"), "{{run}} {{judge}} ceiling"),
        ),
        "By all starts of a run; nothing where judge.price is not set.",
    ),
    Panel("Time to a reply", "s", quantiles("judge_reply_seconds")),
    Panel("Judge's tokens", "suffix: tokens/s", ((rate("judge_tokens", "run, kind"), "{{run}} {{kind}}"),)),
    Panel("Answers without a verdict", "none", ((now("judge_waiting", "run, judge"), "{{run}} {{judge}}"),)),
)
CLUSTER = (
    Panel(
        "Nodes",
        "none",
        (
            ("max by (node_type) (ray_cluster_active_nodes)", "{{node_type}}"),
            ("max by (node_type) (ray_cluster_pending_nodes)", "{{node_type}} pending"),
            ("max by (node_type) (ray_cluster_failed_nodes)", "{{node_type}} failed"),
        ),
    ),
    Panel("CPUs at work", "percent", (("ray_node_cpu_utilization", "{{instance}}"),), most=100),
    Panel(
        "Memory",
        "percentunit",
        (("ray_node_mem_used / ray_node_mem_total", "{{instance}}"),),
        "From 95 % on Ray ends tasks.",
        most=1,
    ),
    Panel(
        "GPUs busy",
        "percent",
        (("ray_node_gpus_utilization", "{{instance}} GPU {{GpuIndex}}"),),
        most=100,
        gpu=True,
    ),
    Panel(
        "GPU memory",
        "mbytes",
        (("ray_node_gram_used", "{{instance}} GPU {{GpuIndex}}"),),
        gpu=True,
    ),
    Panel(
        "Object store",
        "bytes",
        (("sum by (Location) (ray_object_store_memory)", "{{Location}}"),),
        "SPILLED lies on disk, which is slow.",
    ),
    Panel("Disk free", "bytes", (("ray_node_disk_free", "{{instance}}"),)),
    Panel(
        "Tasks at work",
        "none",
        ((f'sum by (Name) (ray_tasks{{State="RUNNING",Name=~"{TASKS}"}} > 0)', "{{Name}}"),),
    ),
    Panel(
        "Actors alive",
        "none",
        ((f'sum by (Name) (ray_actors{{State!="DEAD",Name=~"{ACTORS}"}} > 0)', "{{Name}}"),),
    ),
)
ROWS = (
    ("prepare", PREPARE),
    ("train", TRAIN),
    ("evaluate", EVALUATE),
    ("judge", JUDGE),
    ("cluster", CLUSTER),
)


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        grid = {"x": 0, "y": y, "w": WIDTH * COLUMNS, "h": 1}
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": grid,
                "panels": [],
            }
        )
        y += 1
        for place, panel in enumerate(row):
            x, down = place % COLUMNS * WIDTH, place // COLUMNS * HEIGHT
            panels.append(_panel(panel, len(panels) + 1, {"x": x, "y": y + down, "w": WIDTH, "h": HEIGHT}))
        y += -(-len(row) // COLUMNS) * HEIGHT
    return {
        "uid": "raypipe",
        "title": "raypipe",
        "tags": ["raypipe", "ray"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [],
        "panels": panels,
        "version": 1,
    }


def _panel(panel: Panel, number: int, grid: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "custom": {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 8,
            "spanNulls": 60000,
            "showPoints": "never",
        },
    }
    if panel.most is not None:
        defaults["max"] = panel.most
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": grid,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": SOURCE,
                "expr": query,
                "legendFormat": legend,
                "range": True,
            }
            for n, (query, legend) in enumerate(panel.queries)
        ],
    }


def _variables() -> list[dict[str, Any]]:
    every = '{__name__=~"ray_raypipe_.+"}'
    asked = (("run", f"label_values({every}, run)"), ("dataset", f"label_values({every}, dataset)"))
    return [
        {
            "name": "datasource",
            "type": "datasource",
            "query": "prometheus",
            "label": "Prometheus",
            "hide": 2,
            "current": {},
        },
        *(
            {
                "name": name,
                "type": "query",
                "label": name,
                "datasource": SOURCE,
                "definition": query,
                "query": {"query": query, "refId": name},
                "includeAll": True,
                "allValue": ".*",
                "multi": True,
                "refresh": 2,
                "sort": 1,
                "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            }
            for name, query in asked
        ),
    ]


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=1) + "\n")
