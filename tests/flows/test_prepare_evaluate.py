"""Prepare, evaluate, judge, report and compare, one after another, without Ray and without training."""

import json

import pytest

from raypipe import cli
from raypipe.benchmark import load
from raypipe.demo.matching_judge import MODEL, MatchingJudge
from raypipe.evaluate.run import evaluate, in_process
from raypipe.judge.run import judge_run
from raypipe.records import PREDICTION_SCHEMA, Outcome, predictions_of
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from tests.support.eval_media import asking, eval_root
from tests.support.prepared import drawn_run
from tests.support.tiny import save_tiny


def test_from_clips_to_a_report(tmp_path, tiny_folder, capsys):
    prepared = drawn_run(tmp_path)
    root = eval_root(tmp_path / "eval")
    other = save_tiny(tmp_path / "other", seed=9)
    runs = []
    for label, model in (("first", tiny_folder), ("second", other)):
        settings = asking(root, model, tmp_path / label)
        summary = evaluate(settings, execute=in_process)
        assert summary["coverage"]["msvd_qa"]["waits_for_judge"]
        store = Store(settings.out)
        predictions = predictions_of(Ledger(store, "predictions", PREDICTION_SCHEMA).rows())
        with MatchingJudge() as judge:
            made = JudgeSettings(base_url=judge.base_url, model=MODEL, key_env="RAYPIPE_TEST_NO_KEY")
            verdicts = judge_run(store, predictions, lambda n: load(n).rubric, made, use_ray=False)
        assert [v.outcome for v in verdicts] == [Outcome.OK] * 3
        runs.append(f"{label}={settings.out}")
    for path in (prepared, tmp_path / "first", tmp_path / "second"):
        assert cli.main(["verify", str(path)]) == 0
    capsys.readouterr()
    out = tmp_path / "report"
    assert cli.main(["report", *runs, str(prepared), "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report
    page = (out / "report.html").read_text()
    assert "first" in page
    assert "second" in page
    argv = ["compare", str(tmp_path / "first"), str(tmp_path / "second")]
    assert cli.main([*argv, "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert cli.main(argv) == 0


def test_one_question_about_one_file(tmp_path, tiny_folder, capsys):
    root = eval_root(tmp_path)
    clip = next(root.rglob("a.mp4"))
    argv = ["ask", "--model", str(tiny_folder), str(clip), "What moves?", "--max-new-tokens", "3"]
    assert cli.main([*argv, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["question"] == "What moves?"
    assert cli.main(argv) == 0
    assert capsys.readouterr().out.strip() == first["answer"]
    clip.write_bytes(b"no video")
    assert cli.main(argv) == 2
    assert "media_unreadable" in capsys.readouterr().err
