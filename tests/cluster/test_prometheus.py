"""A real Prometheus with the settings of cluster/monitoring: every panel of the dashboard gets its data."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.monitored import EVALUATED, PREPARED, TRAINED, judge_that_hesitates
from tests.support.one_node import OneNode, free_ports
from tests.support.promql import MONITORING, queries

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="no Prometheus on this machine: apt-get install prometheus",
    ),
]
SPAN = "5s"  # of rates; Ray's workers report every second here


@contextlib.contextmanager
def prometheus(node: OneNode, folder: Path) -> Iterator[str]:
    """Prometheus on loopback with the settings as shipped, but this cluster's folder and a second's pace."""
    settings = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    settings["global"] = dict.fromkeys(settings["global"], "1s")
    for found in settings["scrape_configs"][0]["file_sd_configs"]:
        found["files"] = [str(node.folder / "ray" / Path(name).name) for name in found["files"]]
        found["refresh_interval"] = "1s"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    port = free_ports(1)[0]
    command = [
        *("prometheus", f"--config.file={folder / 'prometheus.yml'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'tsdb'}"),
    ]
    with open(folder / "prometheus.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _reads(url):
            assert server.poll() is None, (folder / "prometheus.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "Prometheus found no node"
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def _reads(url: str) -> bool:
    with contextlib.suppress(OSError):
        return any(s["value"][1] == "1" for s in ask(url, "query", query='up{job="ray"}'))
    return False


def ask(url: str, what: str, **parameters: Any) -> list[dict[str, Any]]:
    asked = f"{url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
        return json.load(answer)["data"]["result"]


def test_every_panel_has_data(one_node, tmp_path):
    with judge_that_hesitates() as judge, prometheus(one_node, tmp_path) as url:
        begun = time.time()
        job = (sys.executable, "-m", "tests.support.monitored", str(tmp_path / "all"), judge.base_url)
        ran = one_node.submit(*job)
        assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        empty, asked = [], [query for query in queries() if query.here]
        for query in asked:
            series = ask(url, "query_range", query=query.filled(SPAN), start=begun, end=time.time(), step=1)
            values = [float(value) for one in series for _, value in one["values"]]
            if not any(math.isfinite(value) for value in values):
                empty.append(query)
        assert empty == []
        assert len(asked) > 40
        runs = {
            s["metric"]["run"]
            for s in ask(url, "query", query='group by (run) (last_over_time({run!=""}[5m]))')
        }
        assert runs >= {PREPARED, TRAINED, EVALUATED}
        for busy in ("evaluate_questions", "evaluate_actor_seconds", "judge_calls", "judge_verdicts"):
            rate = f"max_over_time(sum(rate(ray_raypipe_{busy}_total[{SPAN}]))[5m:1s])"
            (found,) = ask(url, "query", query=rate)
            assert float(found["value"][1]) > 0, busy
