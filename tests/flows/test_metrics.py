"""A small run of every verb as a job: what Ray exports of it while it runs says what the run folders say."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raypipe.store.run import Run
from tests.support.monitored import EVALUATED, NO_VERDICT, PREPARED, TRAINED, judge_that_hesitates
from tests.support.one_node import OneNode
from tests.support.promql import NEEDS_A_GPU, exported, queries

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


class Scrape(threading.Thread):
    """Reads the endpoint again and again: all values by metric, and by labels that are not Ray's own."""

    def __init__(self, node: OneNode) -> None:
        super().__init__(daemon=True)
        self._url, self._over = node.metrics, threading.Event()
        self.seen: dict[str, dict[tuple[str, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
        self.operators: set[tuple[str, str]] = set()  # Ray Data's, with their dataset
        self._tags = {name: metric.tags for name, metric in exported().items()}

    def __enter__(self) -> Scrape:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self.look()

    def run(self) -> None:
        while not self._over.wait(0.5):
            with contextlib.suppress(OSError):
                self.look()

    def look(self) -> None:
        with urllib.request.urlopen(self._url, timeout=10) as answer:  # noqa: S310
            text = answer.read().decode()
        sums: dict[str, dict[tuple[str, ...], float]] = defaultdict(lambda: defaultdict(float))
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                tags = tuple(sample.labels.get(name, "") for name in self._tags.get(sample.name, ()))
                sums[sample.name][tags] += sample.value
                if sample.labels.get("operator") and sample.labels.get("dataset"):
                    named = re.sub(r"_\w+_\d+$", "", sample.labels["dataset"])
                    self.operators.add((named, re.sub(r"_\d+$", "", sample.labels["operator"])))
        for name, found in sums.items():
            for tags, value in found.items():
                self.seen[name][tags].append(value)

    def at_last(self, name: str) -> dict[tuple[str, ...], float]:
        """Of all workers together; the job before this one has other tags."""
        return {tags: values[-1] for tags, values in self.seen[name].items() if tags[0].startswith("watched")}


def test_what_is_exported_is_what_happened(one_node, tmp_path):
    folder = tmp_path / "all"
    with judge_that_hesitates() as judge, Scrape(one_node) as scrape:
        ran = one_node.submit(sys.executable, "-m", "tests.support.monitored", str(folder), judge.base_url)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    missing = exported().keys() - scrape.seen.keys() - NEEDS_A_GPU
    assert missing == {"ray_raypipe_train_validation_score"}  # this stage names no benchmark
    assert scrape.operators >= {
        ("prepare finetune", "Map(decode)"),
        (f"evaluate {EVALUATED}", "Map(read media)"),
        (f"evaluate {EVALUATED}", "Map(answer)"),
    }
    asked = {name for query in queries() if query.here for name, _ in query.selectors}
    assert asked - scrape.seen.keys() == set()
    _check_prepare(scrape, Run.open(str(folder / PREPARED)))
    _check_train(scrape, folder / TRAINED)
    _check_evaluate(scrape, folder / EVALUATED, len(judge.calls), judge.met.count(NO_VERDICT))


def _check_prepare(scrape: Scrape, run: Run) -> None:
    totals, tags = run.manifest["totals"], (PREPARED, "finetune")
    media = scrape.at_last("ray_raypipe_prepare_media_total")
    assert media == {(*tags, "ok"): totals["media_ok"], (*tags, "media_unreadable"): 1}
    assert scrape.at_last("ray_raypipe_prepare_frames_total") == {tags: totals["frames"]}
    stored = sum(f["bytes"] for f in run.manifest["files"] if f["path"].startswith("media/"))
    assert scrape.at_last("ray_raypipe_prepare_stored_bytes_total") == {tags: stored}
    left = scrape.seen["ray_raypipe_prepare_remaining_media"][tags]
    assert left == sorted(left, reverse=True)
    assert (left[0] > 0, left[-1]) == (True, 0)


def _check_train(scrape: Scrape, folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tags = (TRAINED,)
    assert scrape.at_last("ray_raypipe_train_tokens_total") == {tags: sum(r["tokens"] for r in rows)}
    assert scrape.at_last("ray_raypipe_train_samples_total") == {tags: sum(r["samples"] for r in rows)}
    assert scrape.at_last("ray_raypipe_train_step_seconds_count") == {tags: len(rows)}
    assert scrape.at_last("ray_raypipe_train_checkpoints_total") == {tags: 3}
    assert set(scrape.seen["ray_raypipe_train_loss"][tags]) <= {r["loss"] for r in rows}
    assert scrape.at_last("ray_raypipe_train_planned_steps") == {tags: 90}
    assert len(set(scrape.seen["ray_raypipe_train_step"][tags])) > 1  # it was seen to go on


def _check_evaluate(scrape: Scrape, folder: Path, calls: int, mute: int) -> None:
    summary = json.loads((folder / "scores.json").read_text())
    questions = scrape.at_last("ray_raypipe_evaluate_questions_total")
    assert {tags[:2] for tags in questions} == {(EVALUATED, name) for name in summary["benchmarks"]}
    assert sum(questions.values()) == max(scrape.seen["ray_raypipe_evaluate_remaining_questions"][EVALUATED,])
    states = scrape.at_last("ray_raypipe_evaluate_actor_seconds_total")
    assert {state for _, state in states} == {"load", "idle", "busy"}
    assert min(states.values()) > 0
    tags = (EVALUATED, "judge")
    ends = scrape.at_last("ray_raypipe_judge_calls_total")
    assert ends == {(*tags, "replied"): calls - 2, (*tags, "limited"): 1, (*tags, "passing"): 1}
    verdicts = scrape.at_last("ray_raypipe_judge_verdicts_total")
    assert mute >= 2
    assert verdicts[*tags, "judge_unreadable"] == mute / 2  # each such answer was asked about twice
    assert sum(verdicts.values()) == calls - 2 - mute / 2  # and two calls failed
    spent = scrape.seen["ray_raypipe_judge_spent_usd"][tags]
    assert spent[-1] == pytest.approx((calls - 2) * (100 * 1.0 + 10 * 2.0) / 1e6)
    assert scrape.at_last("ray_raypipe_judge_ceiling_usd") == {tags: 5.0}
    assert 1 <= max(scrape.seen["ray_raypipe_judge_in_flight"][tags]) <= 2
