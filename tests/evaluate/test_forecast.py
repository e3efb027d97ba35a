"""raypipe plan of an evaluation: exact counts, and nothing written."""

import itertools
import json
from pathlib import Path

import pytest
import yaml

from raypipe import eval_mirror
from raypipe.cli import main
from raypipe.errors import RequestError
from raypipe.evaluate import prepared as prepared_module
from raypipe.evaluate.forecast import forecast
from raypipe.evaluate.read import Reader
from raypipe.evaluate.run import evaluate, in_process
from raypipe.evaluate.work import Answerer
from raypipe.model import near
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store
from raypipe.store.run import Run
from tests.evaluate.test_eval_mirror import put_tree
from tests.evaluate.test_prepared import CLIP, IMAGE, prepare
from tests.evaluate.test_run import predictions_in
from tests.evaluate.test_served import settings_of
from tests.support.eval_media import VIDEOS, asking, eval_root
from tests.support.eval_roots import made_up
from tests.support.judge_endpoint import JudgeEndpoint, Say, good
from tests.support.picture_endpoint import PictureEndpoint


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAYPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(eval_mirror, "_mirrors", {})
    monkeypatch.setattr(near, "_in_use", {})
    prepared_module._opened.cache_clear()


@pytest.fixture
def root(tmp_path) -> Path:
    return eval_root(tmp_path / "eval")


@pytest.fixture
def decodes(monkeypatch) -> list[str]:
    asked: list[str] = []
    real = Reader._read

    def read(self, requests):
        asked.extend(r.path for r in requests)
        return real(self, requests)

    monkeypatch.setattr(Reader, "_read", read)
    return asked


def rows(plan) -> dict[str, dict]:
    return {row["benchmark"]: row for row in plan["benchmarks"]}


def test_what_is_planned_is_what_is_done(root, tiny_folder, tmp_path, decodes):
    settings = asking(root, tiny_folder, tmp_path / "run")
    plan = forecast(settings)
    assert not (tmp_path / "run").exists()
    found = rows(plan)
    assert (found["pope"]["questions"], found["pope"]["media"], found["pope"]["judged"]) == (5, 2, 0)
    assert (found["msvd_qa"]["questions"], found["msvd_qa"]["judged"]) == (3, 3)
    evaluate(settings, execute=in_process)
    assert plan["totals"]["decodes"] == len(decodes)
    assert plan["totals"]["generations"] == len(predictions_in(settings.out))
    again = forecast(settings)["totals"]
    assert (again["answered"], again["generations"], again["decodes"]) == (8, 0, 0)


def test_of_a_run_that_was_stopped_the_rest_is_planned(root, tiny_folder, tmp_path, monkeypatch, decodes):
    settings, commits = asking(root, tiny_folder, tmp_path / "run"), []
    real = Answerer._commit

    def dies_at_the_third(self, *given):
        if len(commits) == 2:
            raise KeyboardInterrupt
        commits.append(given)
        return real(self, *given)

    monkeypatch.setattr(Answerer, "_commit", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, execute=in_process)
    monkeypatch.setattr(Answerer, "_commit", real)
    before = {n: Store(settings.out).read(n) for n in Store(settings.out).list()}
    plan = forecast(settings)["totals"]
    assert {n: Store(settings.out).read(n) for n in Store(settings.out).list()} == before
    answered = len(predictions_in(settings.out))
    assert 0 < plan["answered"] == answered < 8
    decodes.clear()
    evaluate(settings, execute=in_process)
    assert plan["decodes"] == len(decodes)
    assert plan["generations"] == 8 - answered


def test_another_run_in_the_folder_is_refused_as_by_the_run(root, tiny_folder, tmp_path):
    settings = asking(root, tiny_folder, tmp_path / "run")
    evaluate(settings, execute=in_process)
    with pytest.raises(RequestError, match="holds another evaluate run"):
        forecast(settings.model_copy(update={"max_new_tokens": 7}))


def test_frames_of_prepare_runs_are_no_decodes(root, tiny_folder, tmp_path, decodes):
    run = prepare(root, tmp_path / "prepared", [CLIP, IMAGE])
    settings = asking(root, tiny_folder, tmp_path / "run", prepared=[run])
    totals = forecast(settings)["totals"]
    assert (totals["prepared"], totals["decodes"]) == (2, 2)
    evaluate(settings, execute=in_process)
    assert len(decodes) == 2


def test_missing_media_and_benchmarks_are_counted(root, tiny_folder, tmp_path):
    (root / VIDEOS / "a.mp4").unlink()
    plan = forecast(asking(root, tiny_folder, tmp_path / "run", benchmarks="all"))
    assert rows(plan)["msvd_qa"]["media_missing"] == 1
    assert plan["missing_benchmarks"]["gqa"].endswith("gqa/llava_gqa_testdev_balanced.jsonl")


def test_pictures_inside_a_table_are_not_written(tiny_folder, tmp_path):
    made_up(tmp_path / "eval", "mmbench:cn")
    before = sorted((tmp_path / "eval").rglob("*"))
    more = {"benchmarks": ["mmbench"], "splits": {"mmbench": "cn"}}
    row = rows(forecast(asking(tmp_path / "eval", tiny_folder, tmp_path / "run", **more)))["mmbench"]
    assert row["packed"] == row["media"] > 0
    assert row["media_missing"] == 0
    assert sorted((tmp_path / "eval").rglob("*")) == before


def test_a_model_at_an_address_is_not_fetched(root, tiny_folder, tmp_path, s3_root):
    put_tree(tiny_folder, f"{s3_root}/model")
    settings = asking(root, f"{s3_root}/model", tmp_path / "run")
    plan = forecast(settings)
    assert plan["model"]["bytes_to_fetch"] == sum(p.stat().st_size for p in tiny_folder.iterdir())
    assert not list((tmp_path / "cache/models").glob("*/config.json"))
    evaluate(settings, execute=in_process)
    after = forecast(settings)
    assert after["model"]["bytes_to_fetch"] == 0
    assert after["totals"]["answered"] == 8


@pytest.mark.parametrize("place", ["nowhere", "unfinished"])
def test_a_model_that_is_still_to_be_trained_is_lacking(root, tiny_folder, tmp_path, place, capsys):
    """All that does not hang on it is counted: questions, decodes, the judge's calls and their price."""
    folder = tmp_path / "runs" / place
    if place == "unfinished":
        Run.start(str(folder), "train", JudgeSettings())
    judge = {"price": {"prompt": 2, "reply": 4}}
    there = forecast(asking(root, tiny_folder, tmp_path / "run", judge=judge))
    settings = asking(root, folder, tmp_path / "run", judge=judge)
    plan = forecast(settings)
    assert there["lacks"] == []
    assert [str(folder) in said for said in plan["lacks"]] == [True]
    for key in ("benchmarks", "totals", "judge"):
        assert plan[key] == there[key]
    assert plan["judge"]["usd"] > 0
    assert (plan["model"]["parameters"], plan["model"]["actor"]) == (None, None)
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    assert main(["plan", str(file)]) == 0
    assert "lacks" in capsys.readouterr().out


def test_what_lies_in_the_place_of_a_model_and_is_none_is_refused(root, tmp_path):
    (tmp_path / "notes").mkdir()
    Run.start(str(tmp_path / "other"), "prepare", JudgeSettings())
    for name, said in (("notes", "holds neither config.json"), ("other", "is a run of prepare")):
        with pytest.raises(RequestError, match=said):
            forecast(asking(root, tmp_path / name, tmp_path / "run"))


def test_the_size_of_the_model(root, tiny_folder, tmp_path):
    from raypipe.model.build import load_model

    model = forecast(asking(root, tiny_folder, tmp_path / "run"))["model"]
    loaded = load_model(str(tiny_folder)).model
    assert model["parameters"] == sum(p.numel() for p in loaded.parameters())
    assert model["weight_bytes"] == 4 * model["parameters"]
    text = loaded.config.text_config
    width = text.hidden_size // text.num_attention_heads
    assert model["cache_bytes_per_token"] == 8 * text.num_hidden_layers * text.num_key_value_heads * width


def test_the_calls_of_the_judge(root, tiny_folder, tmp_path):
    with JudgeEndpoint(then=Say(good(verdict="yes", score=5))) as endpoint:
        judge = {"base_url": endpoint.base_url, "price": {"prompt": 1.0, "reply": 2.0}}
        settings = asking(root, tiny_folder, tmp_path / "run", judge=judge)
        plan = forecast(settings)["judge"]
        assert endpoint.calls == []
        evaluate(settings, execute=in_process)
        assert plan["calls"] == len(endpoint.calls) == 3
        assert 0 < plan["usd"] < plan["at_most_usd"]
        after = forecast(settings)["judge"]
    assert (after["calls"], after["usd"]) == (0, 0.0)


def test_calls_that_hang_on_the_answers_are_told_apart(tiny_folder, tmp_path):
    made_up(tmp_path / "eval", "mmbench:cn")
    more = {"benchmarks": ["mmbench"], "splits": {"mmbench": "cn"}}
    plan = forecast(asking(tmp_path / "eval", tiny_folder, tmp_path / "run", **more))
    assert plan["judge"]["calls"] == rows(plan)["mmbench"]["judged"] == 0
    assert plan["judge"]["more_calls"] == rows(plan)["mmbench"]["questions"]


def test_answers_that_the_rule_can_read_are_no_calls(tmp_path):
    made_up(tmp_path / "eval", "mmbench:cn")
    more = {"benchmarks": ["mmbench"], "splits": {"mmbench": "cn"}, "coverage_floor": 0.0}

    said = itertools.cycle(["A", "the first or so, hard to say"])

    with (
        PictureEndpoint(answer=lambda _: next(said)) as model,
        JudgeEndpoint(then=Say(good(choice="A"))) as judge,
    ):
        settings = settings_of(tmp_path / "eval", tmp_path / "run", model, **more)
        evaluate(settings, execute=in_process)
        judged = settings.model_copy(update={"judge": JudgeSettings(base_url=judge.base_url)})
        plan = forecast(judged)
        read = [p for p in predictions_in(settings.out) if p.text == "A"]
        evaluate(judged, execute=in_process)
        assert plan["judge"]["calls"] == len(judge.calls) > 0
        assert read
        assert plan["judge"]["calls"] < plan["totals"]["questions"]
        assert plan["judge"]["more_calls"] == 0


def test_the_command_line(root, tiny_folder, tmp_path, capsys):
    file = tmp_path / "evaluate.yaml"
    body = asking(root, tiny_folder, tmp_path / "run").model_dump(mode="json", exclude_unset=True)
    file.write_text(yaml.safe_dump(body))
    assert main(["plan", str(file), "limit=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["questions"] == 4
    assert main(["plan", str(file)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "pope" in said
    assert "8 questions on 4 media, 0 answered; to do: 4 decodes, 8 answers" in said
