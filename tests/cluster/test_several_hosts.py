"""A cluster of several hosts: brought up, worked on, cut in two, and taken down."""

from __future__ import annotations

import json
import math
import re
import stat
import urllib.error
from typing import Any

import pytest

from tests.cluster.conftest import RANK
from tests.cluster.hosts import HOME
from tests.cluster.lab import BUCKET, STEPS, YAML, Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(480)]

ACTOR = "MapWorker"  # as Ray names the process of an actor that answers
CHECKPOINT = re.compile(r"checkpoints/step-(\d+)\.json$")
RAY = ("ray::", "raylet", "gcs_server", "site-packages/ray/")


def test_up_with_the_shipped_file(lab: Lab) -> None:
    checked = json.loads(lab.laptop.run("raypipe", "cluster", "check", YAML, "--json").stdout)
    assert checked["ok"]
    assert [f["rule"] for f in checked["findings"]] == ["head-works"]  # the one change that it warns of
    assert lab.nodes() == sorted(host.address for host in lab.all_hosts)


def test_the_dashboard_is_on_loopback_and_asks_for_the_token(lab: Lab) -> None:
    listening = lab.head.run("ss", "-Hltn", "sport = :8265").stdout.split("\n")
    assert [line.split()[3] for line in listening if line] == ["127.0.0.1:8265"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        lab.dashboard("/api/jobs/", token="0" * 64)
    assert refused.value.code in (401, 403)
    for host in (lab.laptop, *lab.all_hosts):
        assert stat.S_IMODE((host.home / ".ray/auth_token").stat().st_mode) == 0o600


def test_a_job_prepares_from_s3_to_s3(lab: Lab, prepared: str) -> None:
    assert verified(lab, prepared)["ok"]


def test_a_folder_of_one_host_alone_is_refused(lab: Lab, prepared: str) -> None:
    here = f"{HOME}/runs/here"
    given = ("jobs/demo_finetune.yaml", f"mixture=[{{data: {prepared}}}]", "workers={num: 2, cpus: 2}")
    ended = lab.laptop.run("raypipe", "submit", "train", *given, f"out={here}", check=False)
    assert ended.returncode == 2, ended.stderr
    assert here in ended.stdout + ended.stderr
    assert "(10.77.0.3)" in ended.stdout + ended.stderr
    assert not (lab.workers["worker"].home / "runs").exists()


def test_both_hosts_train(lab: Lab, plain: str) -> None:
    assert [row["step"] for row in losses(lab, plain)] == list(range(1, STEPS + 1))
    facts = manifest(lab, f"runs/{plain}")["facts"]
    assert facts["worlds"] == [2]
    assert facts["restarts"] == 0


def test_a_host_that_cannot_be_reached_is_done_without(lab: Lab, plain: str, prepared: str) -> None:
    lab.whole()
    worker = lab.workers["worker"]
    job = lab.finetune("cut", prepared, "workers={num: 2, cpus: 2, min_num: 1}")
    cut_at = in_the_middle(lab, "cut")
    assert lab.at_work(worker, RANK)
    lab.network.cut(worker)
    lab.tell(f"cut: the cable is pulled, checkpoints {cut_at}")
    lab.wait("Ray to notice", lambda: lab.nodes() == [lab.head.address])
    lab.tell("cut: Ray counts one host")
    lab.ended("cut", job)
    facts = manifest(lab, "runs/cut")["facts"]
    assert facts["restarts"] >= 1
    assert facts["worlds"] == [1, 2]
    same_curve(losses(lab, plain), losses(lab, "cut"), rel=1e-3)
    assert verified(lab, "s3://lab/runs/cut")["ok"]


def test_the_host_joins_again_when_the_cable_is_back(lab: Lab) -> None:
    lab.whole()


def test_training_waits_for_a_host_that_is_started_again(lab: Lab, plain: str, prepared: str) -> None:
    lab.whole()
    job = lab.finetune("killed", prepared, "workers={num: 2, cpus: 2}")
    killed_at = in_the_middle(lab, "killed")
    assert lab.at_work(lab.workers["worker"], RANK)
    lab.workers["worker"].kill()
    lab.tell(f"killed: the host has lost its power, checkpoints {killed_at}")
    lab.wait("Ray to notice", lambda: lab.nodes() == [lab.head.address])
    lab.tell("killed: Ray counts one host")
    lab.workers["worker"] = lab.network.boot(lab.workers["worker"])
    lab.tell("killed: the host has booted")
    lab.ended("killed", job, 400)
    facts = manifest(lab, "runs/killed")["facts"]
    assert facts["restarts"] >= 1
    assert facts["worlds"] == [2]
    same_curve(losses(lab, plain), losses(lab, "killed"), rel=0.0)
    assert verified(lab, "s3://lab/runs/killed")["ok"]


def test_an_evaluation_outlives_one_of_its_hosts(lab: Lab, plain: str) -> None:
    given = (
        *("jobs/evaluate.yaml", f"model=s3://{BUCKET}/runs/{plain}", f"eval_root=s3://{BUCKET}/data/eval"),
        *("benchmarks=pope,gqa,msvd_qa", "precision=fp32", "max_new_tokens=8", "actor_gpus=0"),
        *("batch=1", "media_per_unit=1", "actor_cpus=1"),
    )
    lab.laptop.run("raypipe", "evaluate", *given, f"out={HOME}/alone", "actors=1")
    lab.tell("evaluate: done on one machine, for comparison")
    lab.whole()
    worker, out = lab.workers["worker"], "runs/evaluate"
    job = lab.submit("evaluate", "evaluate", *given, f"out=s3://{BUCKET}/{out}", "actors=2")
    lab.wait("an actor on each host", lambda: all(lab.at_work(host, ACTOR) for host in lab.all_hosts))
    lab.wait("answers", lambda: lab.names(f"{out}/predictions/"))
    assert lab.at_work(worker, ACTOR)
    lab.network.cut(worker)
    before = len(lab.names(f"{out}/predictions/"))
    lab.tell(f"evaluate: the cable is pulled, {before} units answered")
    lab.ended("evaluate", job)
    assert lab.nodes() == [lab.head.address]
    ours = json.loads((lab.laptop.home / "alone/manifest.json").read_text())
    theirs = manifest(lab, out)
    assert before < len(answers(theirs))
    assert answers(ours) == answers(theirs)
    assert (lab.laptop.home / "alone/scores.json").read_bytes() == lab.read(f"{out}/scores.json")
    assert verified(lab, f"s3://{BUCKET}/{out}")["ok"]


def test_down_leaves_nothing_behind(lab: Lab, plain: str) -> None:
    lab.whole()
    lab.down()
    for host in lab.all_hosts:
        assert not [line for line in host.processes().values() if any(name in line for name in RAY)]
    assert lab.bystander.poll() is None
    status = json.loads(lab.laptop.run("raypipe", "status", f"s3://{BUCKET}/runs/{plain}", "--json").stdout)
    assert status["state"] == "finished"
    assert f"step {STEPS}/{STEPS}" in lab.laptop.run("raypipe", "logs", f"s3://{BUCKET}/runs/{plain}").stdout
    lab.network.close()
    assert not lab.network.leftovers()


def in_the_middle(lab: Lab, run: str) -> list[str]:
    """Waits until a run has its first checkpoint; those it has, of which none is the last."""

    def there() -> list[str]:
        return [m[1] for n in lab.names(f"runs/{run}/checkpoints/") if (m := CHECKPOINT.search(n))]

    found = lab.wait(f"a checkpoint of {run}", there)
    assert all(int(step) < STEPS for step in found)
    return found


def losses(lab: Lab, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lab.read(f"runs/{run}/metrics.jsonl").decode().splitlines()]


def same_curve(one: list[dict[str, Any]], other: list[dict[str, Any]], rel: float) -> None:
    assert [row["step"] for row in one] == [row["step"] for row in other]
    apart = [
        (a["step"], a["loss"], b["loss"])
        for a, b in zip(one, other, strict=True)
        if not math.isclose(a["loss"], b["loss"], rel_tol=rel)
    ]
    assert not apart


def manifest(lab: Lab, run: str) -> dict[str, Any]:
    return json.loads(lab.read(f"{run}/manifest.json"))


def answers(manifest: dict[str, Any]) -> dict[str, str]:
    """The files of answers with their hashes: a unit's name is made from all that is asked in it."""
    found = {f["path"]: f["sha256"] for f in manifest["files"] if f["path"].startswith("predictions/")}
    assert found
    return found


def verified(lab: Lab, address: str) -> dict[str, Any]:
    return json.loads(lab.laptop.run("raypipe", "verify", address, "--json").stdout)
