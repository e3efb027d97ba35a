"""report_runs: what report.json holds, and that nothing missing becomes a zero."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.benchmark import grade, graded_from_verdict, load, scores
from raypipe.errors import RequestError
from raypipe.records import Outcome
from raypipe.report.collect import read_evaluation
from raypipe.report.run import report_runs
from raypipe.store.run import Manifest, Run
from tests.report import runs


def by_name(report: dict, name: str) -> dict:
    return next(b for b in report["benchmarks"] if b["name"] == name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp("whole")
    return report_runs(
        runs.trained_and_untrained(root),
        trainings=[("finetune", runs.train_run(root / "train"))],
        prepares=[("clips", runs.prepare_run(root / "prepare"))],
        baseline="untrained",
        out=str(root / "report"),
        checks=[{"name": "loss falls", "passed": True, "detail": "5 to 0.4"}],
    )


def test_the_files_hold_what_is_returned(whole: dict) -> None:
    assert json.loads(Path(whole["paths"]["json"]).read_text(encoding="utf-8")) == whole
    assert Path(whole["paths"]["html"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [e["label"] for e in whole["evaluations"]] == ["untrained", "trained"]
    assert [b["name"] for b in whole["benchmarks"]] == ["msvd_qa", "pope"]
    assert whole["headline"] == [{"label": "trained", "above": 2, "below": 0, "undecided": 0}]


def test_scores_are_those_of_the_benchmark(whole: dict) -> None:
    for evaluation in whole["evaluations"]:
        run = read_evaluation("x", evaluation["path"])
        for name, rows in run.predictions.items():
            benchmark = load(name)
            if benchmark.rubric is None:
                graded = [grade(benchmark, p, p.text) for p in rows]
            else:
                found = [run.verdicts.get((name, p.question_id), [None])[0] for p in rows]
                graded = [graded_from_verdict(p, v) for p, v in zip(rows, found, strict=True)]
            for score in scores(benchmark, graded):
                metric = next(m for m in by_name(whole, name)["metrics"] if m["metric"] == score.metric)
                shown = metric["scores"][evaluation["label"]]
                assert (shown["value"], shown["low"], shown["high"]) == (score.value, score.low, score.high)
                assert (shown["n"], shown["missing"]) == (score.n, score.missing)


def test_a_change_counts_its_flips_both_ways(whole: dict) -> None:
    change = by_name(whole, "pope")["changes"][0]
    assert (change["from"], change["to"]) == ("untrained", "trained")
    assert change["low"] < change["difference"] < change["high"]
    assert change["difference"] == pytest.approx(100 * (change["gained"] - change["lost"]) / change["n"])


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    evaluations = runs.trained_and_untrained(tmp_path, 4, 4)
    pages = []
    for _ in range(2):
        report_runs(evaluations, baseline="untrained", out=str(tmp_path / "report"))
        pages.append((tmp_path / "report" / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_missing_verdicts_and_bad_media_are_named_and_are_not_zeros(tmp_path: Path) -> None:
    questions = runs.video_questions(3)
    made = [runs.prediction(q, "red") for q in questions]
    made[5] = runs.prediction(questions[5], "", Outcome.MEDIUM_BAD, "media_missing")
    verdicts = [
        runs.verdict(made[0], True),
        runs.verdict(made[1], True),
        runs.verdict(made[2], None, Outcome.JUDGE_UNREADABLE),
        runs.verdict(made[3], None, Outcome.JUDGE_FAILED),
    ]
    path = runs.evaluate_run(tmp_path / "run", made, verdicts)
    entry = by_name(report_runs([("model", path)], out=str(tmp_path / "report")), "msvd_qa")
    score = entry["metrics"][0]["scores"]["model"]
    assert (score["value"], score["n"], score["missing"]) == (100.0, 2, 4)
    assert score["coverage"] == pytest.approx(2 / 6)
    assert entry["outcomes"]["model"] == {
        "judge_failed": 2, "judge_unreadable": 1, "medium_bad": 1, "ok": 2,
    }  # fmt: skip
    marks = sorted(s["answers"][0]["mark"] for s in entry["samples"])
    assert marks == ["missing"] * 4 + ["right"] * 2


def test_a_run_without_any_verdict_has_no_score_at_all(tmp_path: Path) -> None:
    made = [runs.prediction(q, "red") for q in runs.video_questions(2)]
    report = report_runs([("m", runs.evaluate_run(tmp_path / "r", made))], out=str(tmp_path / "out"))
    score = by_name(report, "msvd_qa")["metrics"][0]["scores"]["m"]
    assert (score["value"], score["low"], score["n"], score["missing"]) == (None, None, 0, 4)
    assert any("has not been judged yet on MSVD-QA" in note for note in report["notes"])
    page = Path(report["paths"]["html"]).read_text(encoding="utf-8")
    assert "no score" in page
    assert "NaN" not in page
    assert "nan" not in page.split("<main>")[1].lower().split()


def test_one_judge_a_score(tmp_path: Path) -> None:
    made = [runs.prediction(q, "red") for q in runs.video_questions(2)]
    own = [runs.verdict(p, True) for p in made]
    other = [runs.verdict(p, False, judge="another judge", judge_model="other-1") for p in made]
    path = runs.evaluate_run(tmp_path / "own", made, [*own, *other])
    report = report_runs([("m", path)], out=str(tmp_path / "out"))
    assert by_name(report, "msvd_qa")["metrics"][0]["scores"]["m"]["value"] == 100.0
    assert report["evaluations"][0]["judge"] == {"name": runs.MATCHER, "models": ["matcher-1"]}
    strangers = runs.evaluate_run(tmp_path / "strangers", made, [*own, *other], judge=None)
    with pytest.raises(RequestError, match="2 judges"):
        report_runs([("m", strangers)], out=str(tmp_path / "out"))


def test_a_later_readable_verdict_replaces_a_failed_one(tmp_path: Path) -> None:
    made = [runs.prediction(q, "red") for q in runs.video_questions(1)]
    verdicts = [
        runs.verdict(made[0], True),
        runs.verdict(made[0], None, Outcome.JUDGE_FAILED),
        runs.verdict(made[1], None, Outcome.JUDGE_FAILED),
        runs.verdict(made[1], False),
    ]
    run = read_evaluation("m", runs.evaluate_run(tmp_path / "r", made, verdicts))
    assert [run.verdicts[("msvd_qa", p.question_id)][0].correct for p in made] == [True, False]


def test_the_matcher_is_never_called_gpt(tmp_path: Path) -> None:
    evaluations = runs.trained_and_untrained(tmp_path, 3, 3)
    report = report_runs(evaluations, out=str(tmp_path / "out"), published=False)
    page = Path(report["paths"]["html"]).read_text(encoding="utf-8")
    assert runs.MATCHER in page
    assert "gpt" not in page.lower()
    assert "gpt" not in json.dumps(report).lower()
    assert "published" not in page.split("</style>")[1].lower()


def test_costs_are_tokens_at_the_price_of_the_settings(whole: dict) -> None:
    cost = whole["evaluations"][1]["cost"]
    assert cost["judge_prompt_tokens"] == 120 * cost["judge_calls"]
    expected = (cost["judge_prompt_tokens"] * 0.5 + cost["judge_reply_tokens"] * 1.5) / 1e6
    assert cost["judge_usd"] == pytest.approx(expected)


def test_quarantine_is_counted_by_reason_and_kind(whole: dict) -> None:
    prepared = whole["prepares"][0]
    assert prepared["totals"] == {"inputs": 200, "ok": 197, "quarantined": 3}
    assert prepared["reasons"]["media_truncated"] == {"medium": 1}
    assert prepared["reasons"]["bad_tags"] == {"sample": 1}


def test_runs_say_seed_settings_and_hash(whole: dict) -> None:
    listed = {r["label"]: r for r in whole["reproducibility"]["runs"]}
    assert list(listed) == ["clips", "finetune", "untrained", "trained"]
    assert listed["finetune"]["seeds"] == {"start.seed": 3, "seed": 11}
    assert len(listed["finetune"]["manifest_sha256"]) == 64
    assert "global_batch: 128" in listed["finetune"]["settings_yaml"]


def test_credentials_in_addresses_are_not_shown(tmp_path: Path) -> None:
    # Such an address is refused today; runs of older versions have it in their settings.
    address = "https://me:hunter2@judge.example/v1?api_key=sesame"
    judge = runs.JudgeSettings.model_construct(name="j", base_url=address)
    made = [runs.prediction(q, "yes") for q in runs.pope_questions(1)]
    path = runs.evaluate_run(tmp_path / "run", made, judge=judge)
    report = report_runs([("m", path)], out=str(tmp_path / "out"))
    for text in (Path(report["paths"]["html"]).read_text(encoding="utf-8"), json.dumps(report)):
        assert "judge.example" in text
        assert "hunter2" not in text
        assert "sesame" not in text


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    made = [runs.prediction(q, "yes") for q in runs.pope_questions(1)]
    path = runs.evaluate_run(tmp_path / "run", made, commit=False, limit=6)
    report = report_runs([("m", path)], out=str(tmp_path / "out"))
    assert report["evaluations"][0]["complete"] is False
    assert any("m is not finished" in note for note in report["notes"])
    assert any("first 6 questions" in note for note in report["notes"])


def test_a_run_that_was_taken_up_again_shows_no_certificate_of_its_older_answers(tmp_path: Path) -> None:
    made = [runs.prediction(q, "yes") for q in runs.pope_questions(1)]
    path = runs.evaluate_run(tmp_path / "run", made)
    found = {"asked": 1, "equal": 1, "differences": [], "failed": []}
    run = Run.open(path)
    run.commit(Manifest("evaluate", [], {"inputs": 1, "ok": 1}, facts={"certificate": found}))

    def shown() -> object:
        return report_runs([("m", path)], out=str(tmp_path / "out"))["evaluations"][0]["certificate"]

    assert shown() == found
    run.reopen()
    assert shown() is None


def test_wrong_requests_name_the_next_step(tmp_path: Path) -> None:
    made = [runs.prediction(q, "yes") for q in runs.pope_questions(1)]
    path = runs.evaluate_run(tmp_path / "run", made)
    out = str(tmp_path / "out")
    with pytest.raises(RequestError, match="at least one"):
        report_runs([], out=out)
    with pytest.raises(RequestError, match="both called 'm'"):
        report_runs([("m", path), ("m", path)], out=out)
    with pytest.raises(RequestError, match="no evaluation is called"):
        report_runs([("m", path)], baseline="n", out=out)
    with pytest.raises(RequestError, match="this takes one of train"):
        report_runs([("m", path)], trainings=[("t", path)], out=out)


def test_the_report_needs_neither_torch_nor_ray() -> None:
    code = "import sys, raypipe.report.run, raypipe.report.table; print({'torch', 'ray'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
