"""A user's configuration becomes a small one in a scratch folder; nothing of theirs is written or paid."""

import json
from pathlib import Path

import pytest

from raypipe import cli
from raypipe.chaos.case import case_of, write
from raypipe.chaos.run import chaos
from raypipe.errors import RequestError
from raypipe.settings import DatasetSettings, EvaluateSettings, StageSettings, identity, load

URL = "http://127.0.0.1:9/v1"


def yaml(folder: Path, file: str, /, **values) -> str:
    (folder / file).write_text(json.dumps(values))  # JSON is YAML
    return str(folder / file)


def dataset(folder: Path, **more) -> str:
    values = {"name": "d", "data_root": str(folder), "annotations": ["a.json"], "out": str(folder / "real")}
    return yaml(folder, "d.yaml", **{**values, "reuse": [str(folder / "other")], **more})


def case(
    config: str | None, folder: Path, *overrides: str, sample: int | None = None, asked: list | None = None
):
    def judge_url() -> str:
        if asked is not None:
            asked.append("judge")
        return URL

    out = f"out={folder / 'scratch/run'}"
    return case_of(config, [*overrides, out], folder / "scratch", sample, judge_url)


def test_a_dataset(tmp_path):
    made = case(dataset(tmp_path), tmp_path)
    assert isinstance(made.settings, DatasetSettings)
    assert (made.verb, made.faults, made.every, made.exact) == (
        "prepare",
        ("worker", "decoder", "driver"),
        1,
        True,
    )
    small = made.settings
    assert (small.limit, small.media_per_shard, small.concurrency, small.reuse) == (96, 1, 2, [])
    assert small.out == str(tmp_path / "scratch/run")
    assert case(dataset(tmp_path, limit=5), tmp_path, sample=9).settings.limit == 5
    assert case(dataset(tmp_path), tmp_path, "limit=12", sample=9).settings.limit == 9


def test_a_stage_with_a_dataset_to_prepare(tmp_path):
    values = {
        "name": "s",
        "out": str(tmp_path / "real"),
        "start": {"random": "tiny"},
        "mixture": [{"data": dataset(tmp_path)}, {"data": "prepared/there", "weight": 2}],
        "validation": {"fraction": 0.1, "benchmarks": ["pope"], "eval_root": "eval"},
        "export": "best",
        "workers": {"num": 4, "min_num": 2, "max_failures": 0},
        "checkpoint": {"every_steps": 500, "keep": 1},
    }
    made = case(yaml(tmp_path, "s.yaml", **values), tmp_path)
    small = made.settings
    assert isinstance(small, StageSettings)
    assert (made.verb, made.faults, made.every) == ("train", ("worker", "driver"), 3)
    assert (small.steps, small.epochs, small.export) == (12, None, "last")
    assert (small.checkpoint.every_steps, small.checkpoint.keep) == (3, 5)
    assert (small.workers.min_num, small.workers.max_failures) == (None, 1)
    assert small.validation.fraction == 0
    (first,) = made.before
    assert first.out == small.mixture[0].data == str(tmp_path / "scratch/data-0")
    assert first.limit == 96
    assert small.mixture[1].weight == 2
    assert {"no validation beside it", "always 4 workers: with fewer the same numbers are not promised"} <= {
        *made.notes
    }
    assert not case(yaml(tmp_path, "s.yaml", **values), tmp_path, "workers.gpus=1").exact
    assert case(yaml(tmp_path, "s.yaml", **values), tmp_path, "steps=3").every == 1


def evaluation(folder: Path, **more) -> str:
    judge = {
        "base_url": "https://judge.example/v1",
        "model": "gpt-x",
        "key_file": str(folder / "key"),
        "cache": str(folder / "cache"),
        "max_usd": 5,
        "price": {"prompt": 1.0},
        "tries": 2,
    }
    values = {"model": "m", "eval_root": "eval", "benchmarks": ["pope"], "out": str(folder / "real")}
    return yaml(folder, "e.yaml", **{**values, "judge": judge, **more})


def test_an_evaluation_whose_judge_is_not_asked(tmp_path):
    asked: list[str] = []
    made = case(evaluation(tmp_path), tmp_path, asked=asked)
    judge = made.settings.judge
    assert asked == ["judge"]
    assert made.faults == ("worker", "decoder", "driver", "judge")
    assert judge.base_url == URL
    assert (judge.key_file, judge.cache, judge.max_usd) == (None, None, None)
    assert judge.key_env == "RAYPIPE_CHAOS_NO_KEY"
    assert judge.tries == 5
    assert any("in place of gpt-x at https://judge.example/v1" in note for note in made.notes)
    assert (made.settings.limit, made.settings.actors, made.settings.questions_per_unit) == (16, 1, 1)


def test_an_evaluation_without_a_judge_and_without_a_file(tmp_path):
    asked: list[str] = []
    made = case(None, tmp_path, "model=m", "eval_root=e", "benchmarks=pope", sample=3, asked=asked)
    assert (made.settings.limit, asked) == (3, [])
    assert made.faults == ("worker", "decoder", "driver")


def test_what_is_written_is_what_is_read(tmp_path):
    asked = [(dataset(tmp_path), DatasetSettings), (evaluation(tmp_path), EvaluateSettings)]
    for config, kind in asked:
        settings = case(config, tmp_path).settings
        assert load(kind, write(settings, tmp_path / "w.yaml")) == settings
        assert identity(load(kind, tmp_path / "w.yaml")) == identity(settings)


def test_what_cannot_be_done_is_refused(tmp_path):
    served = {"engine": "served", "served": {"base_url": "http://model/v1"}}
    with pytest.raises(RequestError, match=r"what answers is at served.base_url"):
        case(evaluation(tmp_path, **served), tmp_path)
    with pytest.raises(RequestError, match="is of another kind"):
        case(yaml(tmp_path, "t.yaml", stage="s.yaml", axes={}), tmp_path)


def test_a_scratch_folder_that_holds_something_is_left_alone(tmp_path):
    kept = tmp_path / "mine/file"
    kept.parent.mkdir()
    kept.write_text("x")
    with pytest.raises(RequestError, match="is not empty"):
        chaos(dataset(tmp_path), [], seed=1, out=str(tmp_path / "mine"))
    with pytest.raises(RequestError, match="not on this machine"):
        chaos(dataset(tmp_path), [], seed=1, out="s3://bucket/run")
    assert [kept] == list(kept.parent.iterdir())


@pytest.mark.parametrize("out", ["/proc/x", "{}/file/x", "{}/" + "x" * 300])
def test_a_scratch_folder_that_cannot_be(tmp_path, capsys, out):
    (tmp_path / "file").write_text("")
    out = out.format(tmp_path)
    code = cli.main(["chaos", dataset(tmp_path), "--seed", "1", "--out", out])
    said = capsys.readouterr().err
    assert (code, f"error: cannot write {out}: " in said, "--out" in said) == (5, True, True)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["{}"], "chaos needs --seed N"),
        (["{}", "--seed", "x"], "chaos needs --seed N"),
        (["{}", "--seed", "1", "--faults", "judge"], "has nothing that 'judge' could befall"),
        (["{}", "--seed", "1", "--sample", "0"], "sample=0 is not a whole number"),
        (["{}", "--seed", "1", "nmae=x"], "unknown setting 'nmae'"),
        (["--seed", "1"], "which settings?"),
        (["--seed", "1", "name=x"], "which settings? no yaml file is named"),
        (["{}", "--seed", "9" * 5000], "chaos needs --seed N, a whole number of at most 18 digits"),
        (["{}", "--seed", "1", "--sample", "9" * 5000], "sample=99999999... is not a whole number"),
    ],
)
def test_a_wrong_command_line(tmp_path, capsys, argv, said):
    config = dataset(tmp_path)
    code = cli.main(["chaos", *(word.format(config) for word in argv)])
    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert said in told.err
    assert len(told.err.splitlines()) <= 8


def test_a_request_that_the_verb_refuses_is_answered_with_its_own_next_step(tmp_path, capsys):
    yaml = tmp_path / "d.yaml"
    yaml.write_text(f"name: d\ndata_root: {tmp_path}/none\nannotations: [a.json]\nout: {tmp_path}/out\n")
    assert cli.main(["chaos", str(yaml), "--seed", "1", "--out", str(tmp_path / "scratch")]) == 2
    error, _, step = capsys.readouterr().err.partition("error: ")[2].partition("\n  try: ")
    assert error == f"the undisturbed run ended with 2: no such data root: {tmp_path}/none"
    assert step.startswith("set data_root=")
    assert f"see {tmp_path}/scratch" in step
