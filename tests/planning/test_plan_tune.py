"""raypipe plan of a search: its trials, its steps between ASHA's bounds, and how many fit at once."""

import json

import pytest
import yaml

from raypipe.cli import main
from raypipe.planning.machines import Kind, Machines
from raypipe.planning.prices import PriceFile
from raypipe.planning.room import Room
from raypipe.planning.text import WIDTH
from raypipe.planning.tune import at_once_of
from raypipe.settings import TuneSettings, load
from raypipe.settings.tune import stage_of
from raypipe.train.space import trials_of
from tests.planning.test_fit import CLUSTER
from tests.support.held import seed_that_holds
from tests.support.prepared import drawn_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return drawn_run(tmp_path_factory.mktemp("searched"))


@pytest.fixture
def files(tmp_path, run):
    stage = {
        "name": "small",
        "out": "unused",
        "start": {"random": "7b"},
        "mixture": [{"data": str(run)}],
        "rates": {"language_model": 1e-5},
        "steps": 12,
        "seed": seed_that_holds(run, 0.3),
        "global_batch": 8,
        "workers": {"num": 4, "gpus": 1, "cpus": 8},
        "checkpoint": {"every_steps": 3},
        "validation": {"fraction": 0.3, "gpus": 1, "cpus": 4},
    }
    search = {
        "name": "search",
        "out": str(tmp_path / "out"),
        "stage": stage,
        "space": {"rates.language_model": {"grid": [1e-5, 1e-4, 1e-3, 1e-2]}},
        "reduction": 2,
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


def plan(capsys, files, *argv: str) -> tuple[int, dict, str]:
    code = main(["plan", str(files / "search.yaml"), f"cluster={files / 'cluster.yaml'}", *argv, "--json"])
    out, err = capsys.readouterr()
    assert not (files / "out").exists()
    return code, json.loads(out) if out else {}, err


@pytest.mark.parametrize(
    ("more", "most", "least", "rungs"),
    [
        ([], 48, 4 * 3 + 2 * 3 + 1 * 6, [3, 6]),
        (["grace=4", "reduction=3"], 48, 4 * 4 + 2 * 8, [4]),
        (["grace=12"], 48, 48, []),
        (["scheduler=none"], 48, 48, []),
        (["set.steps=24"], 96, 4 * 3 + 2 * 3 + 1 * 6 + 1 * 12, [3, 6, 12]),
    ],
)
def test_steps_lie_between_the_bounds(files, capsys, more, most, least, rungs):
    code, found, err = plan(capsys, files, *more)
    assert (code, err) == (0, "")
    search = found["search"]
    assert (search["trials"], search["steps_at_most"], search["steps_at_least"]) == (4, most, least)
    assert search["rungs"] == rungs


@pytest.mark.parametrize(
    ("more", "at_once"),
    [
        ([], 3),  # 16 GPUs, five for each trial with its validation
        (["max_concurrent=2"], 2),
        (["set.validation.gpus=0"], 4),
        (["set.workers.num=8"], 1),  # nine GPUs, over both nodes
    ],
)
def test_trials_at_once(files, capsys, more, at_once):
    code, found, _ = plan(capsys, files, *more)
    assert (code, found["search"]["at_once"]) == (0, at_once)
    assert all(one["ok"] for one in found["fit"])


def test_a_trial_that_never_fits_is_refused(files, capsys):
    code, found, err = plan(capsys, files, "set.workers.num=16")  # and no GPU for its validation
    assert code == 2
    assert found["search"]["at_once"] == 0
    assert "it can never be scheduled" in err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["set.validation.fraction=0"], "trials are compared by validation"),
        (["space.lora.rank.choice=[1]"], "no setting 'lora.rank'"),
        (["space.rates.tower.choice=[0.1]"], "no model has a part 'tower'"),
    ],
)
def test_what_the_search_would_refuse_is_refused(files, capsys, more, said):
    code, _, err = plan(capsys, files, *more)
    assert code == 2
    assert said in err


def test_the_text_fits_a_terminal(files, capsys):
    main(["plan", str(files / "search.yaml"), f"cluster={files / 'cluster.yaml'}"])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if "/" not in line) <= WIDTH
    assert "ASHA stops the poorer ones at steps 3, 6: 24 to 48 steps in all" in " ".join(
        " ".join(lines).split()
    )


def _kind(name: str, cpus: float | None, gpus: float, count: int = 4) -> Kind:
    return Kind(name, count, 0, cpus, gpus)


@pytest.mark.parametrize(
    ("kinds", "most", "at_once"),
    [
        ([_kind("unknown", None, 8, 0), _kind("one", 96, 8, 2)], None, 3),  # 0 nodes of unknown size are none
        ([_kind("unknown", None, 8, 2)], None, 3),
        ([_kind("a", 96, 5), _kind("b", 96, 5)], 4, 4),  # not eight nodes: four of both kinds together
        ([_kind("a", 96, 5), _kind("b", 96, 5)], None, 8),
    ],
)
def test_trials_are_counted_over_nodes_that_can_be_there_together(files, kinds, most, at_once):
    settings = load(TuneSettings, files / "search.yaml", ["space.optimizer.weight_decay.grid=[0, 0.1, 0.2]"])
    trials = trials_of(settings, stage_of(settings))
    machines = Machines("cluster.yaml", tuple(kinds), most)
    room = Room(machines, PriceFile("none", None), None, 0.4, False)
    assert at_once_of(settings, trials, room) == at_once
