"""raypipe plan of a stage: on the command line, against clusters that hold it and that never will."""

import json
from pathlib import Path

import pytest
import yaml

from raypipe.cli import main
from raypipe.errors import RequestError
from raypipe.planning.plan import kind_of
from raypipe.planning.text import WIDTH
from raypipe.settings import load
from tests.planning.test_fit import CLUSTER
from tests.support.held import seed_that_holds
from tests.support.prepared import drawn_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return drawn_run(tmp_path_factory.mktemp("planned"))


@pytest.fixture
def files(tmp_path, run):
    stage = {
        "name": "small",
        "out": str(tmp_path / "out"),
        "start": {"random": "7b"},
        "mixture": [{"data": str(run)}],
        "rates": {"language_model": 1e-5, "multi_modal_projector": 1e-5},
        "seed": seed_that_holds(run, 0.3),
        "global_batch": 8,
        "micro_batch": 1,
        "workers": {"num": 8, "gpus": 1, "cpus": 8},
    }
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(stage))
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


def plan(capsys, files, *argv: str) -> tuple[int, dict, str]:
    code = main(["plan", str(files / "stage.yaml"), *argv, "--json"])
    out, err = capsys.readouterr()
    assert not (files / "out").exists()
    return code, json.loads(out) if out else {}, err


def on_cluster(files) -> str:
    return f"cluster={files / 'cluster.yaml'}"


def test_it_fits_and_is_priced(files, capsys):
    code, found, err = plan(capsys, files, on_cluster(files))
    assert (code, err) == (0, "")
    fit = found["fit"][0]
    assert (fit["ok"], fit["held"], [u["kind"] for u in fit["used"]]) == (True, 8, ["gpu"])
    assert fit["used"][0]["cpus_left"] == 90 - 64
    assert found["gpu"]["name"] == "H100"
    cost = found["cost"]
    assert cost["usd_per_hour"] == pytest.approx(55.04 + 0.384)
    assert cost["usd"] == pytest.approx(cost["hours"] * cost["usd_per_hour"])
    assert cost["hours"] == pytest.approx(found["flops"]["in_all"] / (8 * 989e12 * 0.35) / 3600)
    assert found["assumed"] == {"mfu": 0.35, "given": False, "peak": 989e12}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["workers.cpus=91"], "no node of"),
        (["workers.gpus=9"], "no node of"),
        (["workers.num=17"], "there is room for 16"),
        (["validation.fraction=0.3", "validation.cpus=200"], "no node of"),
    ],
)
def test_what_can_never_be_scheduled_is_refused(files, capsys, more, said):
    code, found, err = plan(capsys, files, on_cluster(files), *more)
    assert code == 2
    assert "it can never be scheduled" in err
    assert said in err
    assert not all(one["ok"] for one in found["fit"])  # the plan is there all the same


def test_fewer_workers_may_begin(files, capsys):
    code, found, _ = plan(capsys, files, on_cluster(files), "workers.num=32", "workers.min_num=8")
    assert code == 0
    assert found["fit"][0]["held"] == 16
    assert "32 x worker" in found["fit"][0]["reason"]


def test_this_machine_has_no_gpu_for_it(files, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("raypipe.planning.machines.local_gpus", list)
    code, _, err = plan(capsys, files)
    assert code == 2
    assert "this machine" in err


def test_memory_is_held_against_the_gpu(files, capsys):
    _, found, _ = plan(capsys, files, on_cluster(files), "gpu_gib=16")
    assert (found["gpu"]["fits"], found["gpu"]["largest_micro_batch"]) == (False, 0)
    _, found, _ = plan(capsys, files, on_cluster(files), "gpu=H200")
    assert found["gpu"]["fits"]


@pytest.mark.parametrize(
    ("gib", "kinds"), [(24, ["deepspeed.zero=3", "LoRA", "workers.num=", "GPUs of 40.0"]), (2, ["GPUs of"])]
)
def test_what_does_not_fit_is_told_what_would(files, capsys, gib, kinds):
    argv = [on_cluster(files), f"gpu_gib={gib}", "global_batch=128"]
    _, found, _ = plan(capsys, files, *argv)
    ways = found["gpu"]["ways"]
    assert [way.startswith(kind) for way, kind in zip(ways, kinds, strict=True)] == [True] * len(kinds)
    main(["plan", str(files / "stage.yaml"), *argv])
    text = " ".join(capsys.readouterr().out.split())
    assert f"no micro_batch fits; what would: {'; or '.join(ways)}" in text
    if gib == 24:  # taken at its word, it fits
        _, found, _ = plan(capsys, files, *argv, *ways[0].partition(" (")[0].split())
        assert found["gpu"]["fits"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (f"steps={10**23}", "steps"),
        ("steps=900000000", "are more than 100,000 epochs"),
        ("epochs=1e18", "epochs"),
        (f"workers.num={10**9}", "workers.num"),
    ],
)
def test_numbers_without_end_are_refused_at_once(files, capsys, more, said):
    code, _, err = plan(capsys, files, on_cluster(files), more)
    assert code == 2
    assert said in err


def test_an_unknown_machine_shows_no_cost(files, capsys):
    cluster = yaml.safe_load(CLUSTER)
    cluster["available_node_types"]["gpu"]["node_config"]["InstanceType"] = "x9.huge"
    (files / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    code, found, _ = plan(capsys, files, on_cluster(files), "gpu=H100")
    assert code == 0
    assert (found["cost"]["usd"], found["cost"]["unpriced"]) == (None, ["x9.huge"])
    main(["plan", str(files / "stage.yaml"), on_cluster(files)])
    assert "no price is known of x9.huge" in " ".join(capsys.readouterr().out.split())


def test_the_text_fits_a_terminal(files, capsys):
    for more in ([], ["workers.num=17"], ["start.random=null", "start.model=/no/such"], ["steps=5"]):
        main(["plan", str(files / "stage.yaml"), on_cluster(files), *more])
        lines = capsys.readouterr().out.splitlines()
        assert max(len(line) for line in lines if "/" not in line) <= WIDTH
        assert lines[0] == "plan of small: nothing is started"


def test_a_part_that_is_to_be_prepared_is_counted_in_its_annotations(files, capsys, run):
    dataset = {
        "name": "d",
        "data_root": str(run.parent / "data"),
        "annotations": ["tune.json"],
        "out": str(files / "prepared"),
    }
    (files / "dataset.yaml").write_text(yaml.safe_dump(dataset))
    stage = yaml.safe_load((files / "stage.yaml").read_text())
    stage["mixture"].append({"data": str(files / "dataset.yaml"), "weight": 2})
    (files / "stage.yaml").write_text(yaml.safe_dump(stage))
    code, found, _ = plan(capsys, files, on_cluster(files))
    assert code == 0
    assert [source["state"] for source in found["reads"]] == ["prepared", "to prepare"]
    assert found["reads"][1]["samples"] == 8
    assert (found["steps"]["samples"], found["steps"]["steps"], found["steps"]["exact"]) == (24, 3, False)
    assert not (files / "prepared").exists()


def test_another_kind_of_yaml(tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("a: 1\n")
    assert main(["plan", str(tmp_path / "x.yaml")]) == 2
    assert "no kind that plan knows" in capsys.readouterr().err


def test_a_dataset_without_a_sample_is_no_endless_epoch(files, capsys, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "none.json").write_text("[]")
    dataset = {
        "name": "d",
        "data_root": str(tmp_path / "data"),
        "annotations": ["none.json"],
        "out": "unused",
    }
    (files / "dataset.yaml").write_text(yaml.safe_dump(dataset))
    code, found, _ = plan(capsys, files, on_cluster(files), f"mixture=[{{data: {files / 'dataset.yaml'}}}]")
    assert code == 0
    assert found["steps"]["steps"] is None


@pytest.mark.parametrize(
    "file", sorted([*Path("jobs").glob("*.yaml"), *Path("datasets").glob("*.yaml")]), ids=str
)
def test_every_shipped_yaml_is_of_a_kind_with_a_plan(file):
    if file.name == "benchmarks.yaml":  # says where files lie, and is no run's
        with pytest.raises(RequestError):
            kind_of(file)
        return
    assert load(kind_of(file), file)
