"""The dashboard and the scrape settings fit what raypipe and Ray export."""

from __future__ import annotations

import configparser
import json
import re
import runpy
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from raypipe.gauges import Counter, Histogram
from tests.support.promql import FILE, MONITORING, VERBS, exported, metrics, queries

RAY_LABELS = {"Name", "State", "Location", "node_type", "instance", "le"}
RAY_ROOT = "/tmp/ray"  # noqa: S108 - Ray's own, where no --temp-dir is given
UNITS = {"none", "s", "bytes", "mbytes", "Bps", "percent", "percentunit", "currencyUSD", "sci"}


def ray_source() -> str:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "dashboard/modules/reporter/reporter_agent.py"
    return source.read_text(encoding="utf-8")


def panels() -> list[dict]:
    return json.loads(FILE.read_text(encoding="utf-8"))["panels"]


def test_metrics_are_named_as_prometheus_wants_it():
    names = [metric.name for metric in metrics()]
    assert len(names) > 40
    assert len(set(names)) == len(names)
    for metric in metrics():
        assert re.fullmatch(rf"raypipe_({'|'.join(VERBS)})_[a-z_]+[a-z]", metric.name), metric.name
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_percent", "_mib"))
        assert metric.text, metric.name
        assert metric.tags[0] == "run", metric.name
        if isinstance(metric, Histogram):
            assert list(metric.bounds) == sorted(metric.bounds)


def test_the_file_is_what_its_generator_writes():
    made = runpy.run_path(str(MONITORING / "make_dashboard.py"))
    assert json.loads(FILE.read_text(encoding="utf-8")) == made["dashboard"]()


def test_every_expression_asks_for_what_is_exported():
    ours, ray = exported(), ray_source()
    assert len(queries()) > 40
    for query in queries():
        assert query.selectors, query
        for name, labels in query.selectors:
            if name in ours:
                tags = {*ours[name].tags, "le"}
                assert labels <= tags, query
                assert query.grouped <= tags, query
                assert "run" in labels, query
            else:
                assert not name.startswith("ray_raypipe"), f"{name} is exported by nobody: {query}"
                assert labels | query.grouped <= RAY_LABELS, query
                known = f'"{name.removeprefix("ray_")}"' in ray
                assert known or name in ("ray_tasks", "ray_actors", "ray_object_store_memory"), query


def test_counters_are_shown_as_rates_or_sums_and_gauges_are_not():
    ours = exported()
    for query in queries():
        for name, _ in query.selectors:
            grows = isinstance(ours.get(name), Counter | Histogram)
            assert not grows or "sum by" in query.expr, query
            assert grows or f"rate({name}" not in query.expr, query


def test_a_made_up_metric_would_be_found(tmp_path):
    text = FILE.read_text(encoding="utf-8").replace("ray_raypipe_train_loss{", "ray_raypipe_train_lost{")
    (tmp_path / "other.json").write_text(text)
    names = {name for query in queries(tmp_path / "other.json") for name, _ in query.selectors}
    assert names - set(exported()) >= {"ray_raypipe_train_lost"}


def test_panels_lie_beside_each_other_and_say_what_they_show():
    taken: set[tuple[int, int]] = set()
    assert [p["title"] for p in panels() if p["type"] == "row"] == [*VERBS, "cluster"]
    assert len({p["id"] for p in panels()}) == len(panels())
    for panel in panels():
        x, y, w, h = (panel["gridPos"][k] for k in "xywh")
        cells = {(column, line) for column in range(x, x + w) for line in range(y, y + h)}
        assert not cells & taken, panel["title"]
        assert x + w <= 24, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        unit = panel["fieldConfig"]["defaults"]["unit"]
        assert unit in UNITS or re.fullmatch(r"suffix: [a-z]+/s", unit), panel["title"]
        legends = [t["legendFormat"] for t in panel["targets"]]
        assert len(set(legends)) == len(legends), panel["title"]
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            by = queries_of(target["expr"])
            assert not by or shown <= by, panel["title"]


def queries_of(expr: str) -> set[str]:
    """The labels that an expression leaves; empty where it leaves all."""
    found = re.findall(r"\bby \(([^)]*)\)", expr)
    return {label.strip() for label in found[0].split(",")} - {"le"} if found else set()


def test_the_variables_are_those_that_expressions_use():
    board = json.loads(FILE.read_text(encoding="utf-8"))
    names = {v["name"] for v in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"]))) - {"__rate_interval"}
    assert names == used == {"datasource", "run", "dataset"}


def test_prometheus_reads_what_rays_head_writes():
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    settings = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = settings["scrape_configs"]
    assert job["job_name"] == "ray"
    (found,) = job["file_sd_configs"]
    assert [Path(name) for name in found["files"]] == [Path(RAY_ROOT) / PROMETHEUS_SERVICE_DISCOVERY_FILE]
    source = yaml.safe_load(
        (MONITORING / "grafana/provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8")
    )
    (prometheus,) = source["datasources"]
    assert prometheus["jsonData"]["timeInterval"] == settings["global"]["scrape_interval"]
    assert prometheus["url"] == "http://127.0.0.1:9090"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus is not installed")
def test_prometheus_accepts_its_settings():
    command = ["promtool", "check", "config", str(MONITORING / "prometheus.yml")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_grafana_listens_on_loopback_and_finds_the_dashboard():
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(MONITORING / "grafana/grafana.ini")
    assert settings["server"]["http_addr"] == "127.0.0.1"
    assert settings["auth.anonymous"]["org_role"] == "Viewer"
    assert not settings.has_option("security", "admin_password")
    assert settings["paths"]["provisioning"] == "$__env{RAYPIPE_MONITORING}/grafana/provisioning"
    providers = yaml.safe_load(
        (MONITORING / "grafana/provisioning/dashboards/raypipe.yaml").read_text(encoding="utf-8")
    )
    assert providers["providers"][0]["options"]["path"] == "$RAYPIPE_MONITORING/grafana/dashboards"
