"""Nodes that are asked, and workers that look for themselves, in a Ray of one node."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from raypipe import cluster
from raypipe.errors import RequestError
from raypipe.evaluate import on_ray as evaluate_on_ray
from raypipe.evaluate.run import evaluate
from raypipe.prepare import on_ray as prepare_on_ray
from raypipe.prepare.run import prepare
from raypipe.settings import StageSettings
from raypipe.shared import Marker, refuse_unshared
from raypipe.train import fit
from raypipe.train.run import train
from tests.support.clips import data_root
from tests.support.eval_media import asking
from tests.support.evaluated import clip_root
from tests.support.prepared import dataset, drawn_run
from tests.train.ranks import stage

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def small(run: Path, out: Path, **more) -> StageSettings:
    return StageSettings.model_validate(stage(out, run, {"random": "tiny"}, "projector", 1, **more))


@contextlib.contextmanager
def elsewhere(root: str):
    """As a node sees it whose run folder is another one."""
    yield Marker(root, "/no/such/marker")


@pytest.fixture
def another_node(ray_local, monkeypatch) -> str:
    """The only node is taken for one that the driver is not on; returns its name."""
    import ray

    (node,) = ray.nodes()
    context = type(ray.get_runtime_context())
    monkeypatch.setattr(context, "get_node_id", lambda self: "f" * 56)
    return cluster._called(node)


def test_each_other_node_is_asked(another_node, tmp_path):
    cluster.require_shared([str(tmp_path / "run")], [str(tmp_path)])
    seen = []

    def gone(looks):
        for one in looks:
            Path(one.seen[0]).unlink()
        import ray

        (node,) = ray.nodes()
        seen.append(cluster._ask({node["NodeID"]: another_node}, looks))
        return seen[-1]

    with pytest.raises(RequestError, match="not shared with the driver"):
        refuse_unshared([str(tmp_path / "run")], [], gone)
    assert list(seen[0]) == [another_node]


def test_a_node_that_is_drained_is_left_out(ray_local, monkeypatch):
    """Ray calls it alive, and gives it no task any more: what a spot node is in its last two minutes."""
    import ray

    drained, there = "e" * 56, ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [*there, {**there[0], "NodeID": drained}])
    nodes = {drained: "spot", there[0]["NodeID"]: "other"}
    assert list(cluster._ask(nodes, [cluster.Look("/", ("/",))])) == ["other"]


def test_prepare_is_refused_before_its_folder_is_made(another_node, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "look", lambda looks: [cluster.Answer("it is not there")] * len(looks))
    data_root(tmp_path / "data")
    with pytest.raises(RequestError, match="not the same on every node") as refused:
        prepare(dataset(tmp_path / "data", tmp_path / "run"))
    assert another_node in refused.value.message
    assert not (tmp_path / "run").exists()


def test_a_task_of_prepare_that_does_not_see_the_run_ends_it(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_on_ray, "marked", elsewhere)
    data_root(tmp_path / "data")
    with pytest.raises(RequestError, match="is not the folder of the driver"):
        prepare(dataset(tmp_path / "data", tmp_path / "run"))


def test_a_task_of_evaluate_that_does_not_see_the_run_ends_it(ray_local, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_on_ray, "marked", elsewhere)
    root = clip_root(tmp_path / "eval", ["a"])
    with pytest.raises(RequestError, match="is not the folder of the driver"):
        evaluate(asking(root, tiny_folder, tmp_path / "run", benchmarks=["msvd_qa"]))


def test_a_rank_that_does_not_see_the_run_ends_it(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "marked", elsewhere)
    with pytest.raises(RequestError, match="is not the folder of the driver"):
        train(small(drawn_run(tmp_path), tmp_path / "out"))


def test_what_the_cluster_never_holds_is_refused_at_once(ray_local, tmp_path):
    import ray

    cpus = int(ray.cluster_resources()["CPU"])
    run = drawn_run(tmp_path)
    with pytest.raises(RequestError, match=f"the stage needs {cpus + 1} CPUs, the cluster has {cpus}"):
        train(small(run, tmp_path / "out", workers={"num": cpus + 1, "cpus": 1}))
    with pytest.raises(RequestError, match="needs 1 GPUs, the cluster has 0"):
        train(small(run, tmp_path / "out", workers={"num": 1, "gpus": 1}))
