"""Several question sets of one benchmark never meet, and answers that nobody can grade are kept."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raypipe import benchmark as benchmarks
from raypipe.benchmarks import pope
from raypipe.doctor.eval_root import check_eval_root
from raypipe.errors import RequestError
from raypipe.evaluate.plan import asking_for, plan_units
from raypipe.evaluate.run import evaluate, in_process, judge_again
from raypipe.evaluate.tree import open_tree
from raypipe.model.build import Card
from raypipe.records import PREDICTION_SCHEMA, fingerprint, predictions_of
from raypipe.report.collect import read_evaluation
from raypipe.report.compare import compare
from raypipe.report.export import export
from raypipe.report.listing import evaluation_text
from raypipe.report.run import report_runs
from raypipe.report.score import score_answers
from raypipe.settings import EvaluateSettings, JudgeSettings, load
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from raypipe.store.verify import verify
from tests.support.eval_media import asking, eval_root


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return eval_root(tmp_path_factory.mktemp("eval"))


@pytest.fixture
def root(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "eval"))


@pytest.fixture
def two_splits(monkeypatch) -> None:
    """POPE as two question sets with the very same questions, so that only the split tells them apart."""
    first, second = (replace(pope.BENCHMARK, split=s, title=f"POPE {s}") for s in ("first", "second"))
    monkeypatch.setattr(pope, "BENCHMARK", first)
    monkeypatch.setattr(pope, "BY_SPLIT", {"first": first, "second": second}, raising=False)


@pytest.fixture
def secret(monkeypatch) -> None:
    """POPE as if its labels were secret."""
    monkeypatch.setattr(pope, "BENCHMARK", replace(pope.BENCHMARK, rule=None))


def keys(out: str) -> set[str]:
    return {p.key for p in predictions_of(Ledger(Store(out), "predictions", PREDICTION_SCHEMA).rows())}


def test_answers_of_two_splits_have_other_names(two_splits, root, tiny_folder, tmp_path):
    runs = {}
    for split in ("first", "second"):
        settings = asking(root, tiny_folder, tmp_path / split, benchmarks=["pope"], splits={"pope": split})
        summary = evaluate(settings, execute=in_process)
        assert summary["coverage"]["pope"]["split"] == split
        assert verify(settings.out).damage == []
        assert f"pope {split}" in evaluation_text(summary, settings.out)
        runs[split] = settings.out
    assert not keys(runs["first"]) & keys(runs["second"])
    assert set(read_evaluation("b", runs["second"]).predictions) == {"pope:second"}
    assert set(read_evaluation("a", runs["first"]).predictions) == {"pope"}
    with pytest.raises(RequestError, match="no benchmark is in both"):
        compare(runs["first"], runs["second"])
    report = report_runs(list(runs.items()), out=str(tmp_path / "report"))
    assert [b["title"] for b in report["benchmarks"]] == ["POPE first", "POPE second"]
    with pytest.raises(RequestError, match="holds another evaluate run"):
        evaluate(settings.model_copy(update={"out": runs["first"]}), execute=in_process)


def test_a_run_is_exported_under_the_split_it_was_asked(two_splits, root, tiny_folder, tmp_path):
    settings = asking(root, tiny_folder, tmp_path / "run", benchmarks=["pope"], splits={"pope": "second"})
    summary = evaluate(settings, execute=in_process)
    out = tmp_path / "answers.jsonl"
    found = export("pope", root, out, run=settings.out, form="answers")
    assert found["split"] == "second"
    with pytest.raises(RequestError, match="was asked pope second, not first"):
        export("pope", root, tmp_path / "b", run=settings.out, form="answers", split="first")
    scored = score_answers("pope", root, out, "second")
    assert scored["metrics"] == {s["metric"]: s["value"] for s in summary["benchmarks"]["pope"]}


def test_without_a_split_the_names_are_as_they_always_were(root, tiny_folder, tmp_path, two_splits):
    card = Card.read(tiny_folder)
    settings = asking(root, tiny_folder, tmp_path / "run")
    questions = benchmarks.load("pope").questions(root)
    how = [asking_for(b, settings, "w", card) for b in (benchmarks.load("gqa"), *pope.BY_SPLIT.values())]
    assert len({a.name() for a in how}) == 3
    units = [plan_units("pope", questions, a, 16, 512, open_tree(str(root)))[0].id for a in how]
    assert len(set(units)) == 3
    fields = {f.name: getattr(how[0], f.name) for f in dataclasses.fields(how[0]) if f.name != "split"}
    plain = {k: v.model_dump() if k in ("sampling", "rendition") else v for k, v in fields.items()}
    assert how[0].name() == fingerprint(plain)


def test_an_unknown_split_is_refused_before_anything_starts(root, tiny_folder, tmp_path):
    for splits, message in (
        ({"pope": "val"}, "no split 'val'"),
        ({"pop": "val"}, "no benchmark is called 'pop'"),
    ):
        with pytest.raises(RequestError, match=message):
            evaluate(asking(root, tiny_folder, tmp_path / "run", splits=splits), execute=in_process)
    assert not (tmp_path / "run").exists()


def test_a_split_is_set_on_the_command_line():
    given = ["model=m", "eval_root=e", "out=o", "splits.mmbench=cn", "splits.vqav2=val"]
    assert load(EvaluateSettings, None, given).splits == {"mmbench": "cn", "vqav2": "val"}


def test_answers_that_nobody_can_grade_are_kept_and_said(secret, root, tiny_folder, tmp_path):
    settings = asking(root, tiny_folder, tmp_path / "run")
    summary = evaluate(settings, execute=in_process)
    assert summary["benchmarks"] == {}
    found = summary["coverage"]["pope"]
    assert (found["answers_only"], found["waits_for_judge"], found["share"]) == (True, False, 1.0)
    assert not summary["coverage"]["msvd_qa"]["answers_only"]
    text = evaluation_text(summary, settings.out)
    assert f"answers only: raypipe export pope --run {settings.out} --format answers" in text
    assert export("pope", root, tmp_path / "a.jsonl", run=settings.out, form="answers")["n"] == 5
    report = report_runs([("run", settings.out)], out=str(tmp_path / "report"))
    entry = next(b for b in report["benchmarks"] if b["name"] == "pope")
    assert entry["answers_only"]
    assert {m["scores"]["run"]["value"] for m in entry["metrics"] if m["scores"]["run"]} == {None}
    assert any("POPE has answers only: raypipe export pope" in note for note in report["notes"])
    assert "answers only" in (tmp_path / "report/report.html").read_text()


def test_media_inside_the_annotations_are_unpacked_first(root, tiny_folder, tmp_path, monkeypatch):
    packed = (root / "pope/val2014/kite.jpg").read_bytes()
    (root / "pope/val2014/kite.jpg").unlink()

    def unpack(eval_root: Path) -> int:
        (eval_root / "pope/val2014/kite.jpg").write_bytes(packed)
        return 1

    monkeypatch.setattr(pope, "BENCHMARK", replace(pope.BENCHMARK, unpack=unpack))
    rows = check_eval_root(str(root), lambda _: None)["benchmarks"]
    assert [(r["state"], r["missing"], r["packed"]) for r in rows if r["name"] == "pope"] == [
        ("complete", 0, 1)
    ]
    summary = evaluate(asking(root, tiny_folder, tmp_path / "run", benchmarks=["pope"]), execute=in_process)
    assert summary["coverage"]["pope"]["answered"] == 5


def test_a_judge_is_not_asked_about_them(secret, root, tiny_folder, tmp_path):
    settings = asking(root, tiny_folder, tmp_path / "run", benchmarks=["pope"])
    evaluate(settings, execute=in_process)
    nobody = JudgeSettings(base_url="http://127.0.0.1:9", tries=1)
    summary = judge_again(settings.out, nobody)
    assert summary["coverage"]["pope"]["answers_only"]
    assert Store(settings.out).list("verdicts") == []


def test_lost_answers_are_under_the_floor_there_too(secret, root, tiny_folder, tmp_path):
    from raypipe.errors import BudgetError

    (root / "pope/val2014/kite.jpg").unlink()
    with pytest.raises(BudgetError, match="pope 2 of 5") as fault:
        evaluate(asking(root, tiny_folder, tmp_path / "run", benchmarks=["pope"]), execute=in_process)
    assert fault.value.result["coverage"]["pope"]["answered"] == 2
