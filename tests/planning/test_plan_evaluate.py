"""raypipe plan of evaluations, of judging one, and of prepare runs, against machines and prices."""

import json

import pytest
import yaml

from raypipe.cli import main
from raypipe.evaluate.run import evaluate, in_process
from raypipe.model.build import load_model
from raypipe.planning.text import WIDTH
from tests.planning.test_fit import CLUSTER
from tests.support.clips import data_root
from tests.support.eval_media import asking, eval_root
from tests.support.prepared import dataset


@pytest.fixture
def root(tmp_path):
    return eval_root(tmp_path / "eval")


@pytest.fixture
def cluster(tmp_path) -> str:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return f"cluster={tmp_path / 'cluster.yaml'}"


def plan(capsys, *argv: str) -> tuple[int, dict, str]:
    code = main(["plan", *argv, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def written(settings, file) -> str:
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    return str(file)


def test_actors_are_placed_and_their_memory_is_known(root, tiny_folder, tmp_path, cluster, capsys):
    settings = asking(root, tiny_folder, tmp_path / "run", actors=20, actor_gpus=1, actor_cpus=4, batch=8)
    file = written(settings, tmp_path / "e.yaml")
    code, found, err = plan(capsys, file, cluster)
    assert (code, found["fit"][0]["ok"]) == (2, False)
    assert "there is room for 16" in err
    code, found, _ = plan(capsys, file, cluster, "actors=1-20")  # as many as there is work and room for
    assert (code, found["fit"][0]["held"]) == (0, 16)
    actor = found["model"]["actor"]
    model = load_model(str(tiny_folder), None, settings.precision).model
    assert actor["weights"] == sum(p.nbytes for p in model.parameters())
    token = found["model"]["cache_bytes_per_token"]
    text = model.config.text_config
    assert token == 2 * text.num_hidden_layers * text.hidden_size * model.dtype.itemsize
    assert actor["cache"] % token == 0
    assert actor["cache"] >= 8 * actor["prompt_tokens"] * token
    assert found["gpu"]["fits"]
    assert found["cost"]["usd_per_hour"] == pytest.approx(2 * 55.04 + 0.384)
    assert found["cost"]["usd"] is None  # nothing is known of how long it takes
    assert not (tmp_path / "run").exists()


def test_the_longest_prompt_is_no_longer_than_said(root, tiny_folder, tmp_path, cluster, capsys):
    from raypipe.evaluate.plan import make_plan
    from raypipe.records import MediumKind

    settings = asking(root, tiny_folder, tmp_path / "run")
    _, found, _ = plan(capsys, written(settings, tmp_path / "e.yaml"), cluster)
    loaded = load_model(str(tiny_folder), None, settings.precision)
    chat = loaded.chat()
    lengths = [
        len(chat.prompt(question.prompt, (group.medium.kind,) if group.medium else ()))
        for unit in make_plan(settings).units
        for group in unit.groups
        for question in group.questions
    ]
    visual = loaded.family.visual(loaded.config)[MediumKind.VIDEO].count
    assert visual < max(lengths) <= found["model"]["actor"]["prompt_tokens"]


def test_judging_a_run_is_planned_from_its_answers(root, tiny_folder, tmp_path, capsys):
    settings = asking(root, tiny_folder, tmp_path / "run")
    evaluate(settings, execute=in_process)
    capsys.readouterr()
    before = sorted(p.name for p in (tmp_path / "run").rglob("*"))
    code, found, _ = plan(capsys, str(tmp_path / "run"), "model=judge-1", "price.prompt=2", "price.reply=4")
    assert code == 0
    judge = found["judge"]
    assert judge["model"] == "judge-1"
    assert 0 < judge["calls"] <= found["open_answers"] <= found["answers"]
    assert judge["usd"] == pytest.approx((2 * judge["prompt_tokens"] + 4 * judge["reply_tokens"]) / 1e6)
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == before
    assert main(["plan", str(tmp_path / "run"), "model=judge-1"]) == 0
    assert f"{judge['calls']} calls" in capsys.readouterr().out


def test_other_runs_have_nothing_to_plan(tmp_path, capsys):
    from tests.support.prepared import drawn_run

    run = drawn_run(tmp_path)
    code, _, err = plan(capsys, str(run))
    assert code == 2
    assert "is a run of prepare" in err
    assert plan(capsys, str(tmp_path / "none"))[0] == 2


def test_prepare_is_priced_by_the_tasks_that_fit(tmp_path, cluster, capsys):
    data_root(tmp_path / "data")
    settings = dataset(tmp_path / "data", tmp_path / "run", media_per_shard=1)
    file = written(settings, tmp_path / "d.yaml")
    code, found, _ = plan(capsys, file, cluster)
    assert code == 0
    assert found["fit"][0]["held"] == found["units"] == 5
    cost = found["cost"]
    assert cost["hours"] == pytest.approx(found["cpu_s"] / 5 / 3600)
    assert cost["usd"] is None or cost["usd"] > 0
    code, found, _ = plan(capsys, file, cluster, "concurrency=2")
    assert found["fit"][0]["held"] == 2
    assert not (tmp_path / "run").exists()


def test_the_texts_fit_a_terminal(root, tiny_folder, tmp_path, cluster, capsys):
    data_root(tmp_path / "data")
    judge = {"model": "judge-1", "base_url": "http://127.0.0.1:1/v1"}
    settings = asking(root, tiny_folder, tmp_path / "run", actor_gpus=0.5, actors="1-4", judge=judge)
    for file in (
        written(settings, tmp_path / "e.yaml"),
        written(dataset(tmp_path / "data", tmp_path / "run"), tmp_path / "d.yaml"),
    ):
        assert main(["plan", file, cluster]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(len(line) for line in lines if "/" not in line) <= WIDTH
