"""``raypipe export``: what comes out scores the same, is never half written and replaces nothing."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest

from raypipe import benchmark as benchmarks
from raypipe.errors import RequestError
from raypipe.records import Outcome, Question
from raypipe.report.collect import read_evaluation
from raypipe.report.export import export, with_upload
from raypipe.report.results import benchmark_entries
from raypipe.report.score import score_answers
from tests.report.runs import evaluate_run, prediction
from tests.support.eval_roots import made_up

REPLIES = ["Yes", "no", "B", "kite", ""]


def a_run(root: Path, name: str, out: Path, lost: int = -1, **settings) -> str:
    """An evaluate run over the made-up questions; the one at ``lost`` has no answer."""
    questions = benchmarks.load(name).questions(root)
    made = [
        prediction(q, REPLIES[n % len(REPLIES)], Outcome.EMPTY if n % len(REPLIES) == 4 else Outcome.OK)
        for n, q in enumerate(questions)
    ]
    if lost >= 0:
        made[lost] = prediction(questions[lost], "", Outcome.MEDIUM_BAD, "missing: no such file")
    return evaluate_run(out, made[::-1], eval_root=str(root), thumbs={}, **settings)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def one_file(root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path) -> list[Path]:
    if len(replies) < len(questions):
        raise RequestError("the server refuses a file with questions unanswered")
    out.write_text(json.dumps([[q.row_id, replies[q.id]] for q in questions]))
    return [out]


def two_files(root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path) -> list[Path]:
    (out / "tasks").mkdir(parents=True)
    files = [out / "tasks/a.txt", out / "b.txt"]
    for file in files:
        file.write_text(replies[questions[0].id])
    return files


@pytest.fixture
def server(monkeypatch):
    """Gives GQA an evaluation server."""
    import raypipe.benchmarks.gqa as gqa

    def give(upload) -> None:
        monkeypatch.setattr(gqa, "BENCHMARK", replace(gqa.BENCHMARK, upload=upload))

    return give


@pytest.mark.parametrize("lost", [-1, 1])
@pytest.mark.parametrize("name", ["pope", "gqa", "scienceqa"])
def test_the_answer_file_of_a_run_scores_as_the_run_does(tmp_path, name, lost):
    root = made_up(tmp_path / "eval", name)
    run = a_run(root, name, tmp_path / "run", lost)
    made = export(name, root, tmp_path / "answers.jsonl", run=run, form="answers")
    assert made["files"] == [str(tmp_path / "answers.jsonl")]
    assert made["missing"] == (lost >= 0)
    scored = score_answers(name, root, tmp_path / "answers.jsonl")
    [entry] = benchmark_entries([read_evaluation("run", run)], None)
    for metric in entry["metrics"]:
        assert scored["metrics"][metric["metric"]] == metric["scores"]["run"]["value"]
    assert (scored["n"], scored["missing"], scored["extra"]) == (made["n"], made["missing"], 0)


def test_answer_rows_are_those_of_the_reference(tmp_path):
    root = made_up(tmp_path, "scienceqa")
    export("scienceqa", root, tmp_path / "a", run=a_run(root, "scienceqa", tmp_path / "run"), form="answers")
    rows = read(tmp_path / "a")
    assert list(rows[0]) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    assert [r["question_id"] for r in rows] == ["4", "5"]  # text in the reference's file too
    assert [r["prompt"].startswith("<image>\n") for r in rows] == [False, True]
    assert rows[0]["model_id"] == "finetune"
    made_up(tmp_path, "pope")
    export("pope", tmp_path, tmp_path / "b", run=a_run(tmp_path, "pope", tmp_path / "run2"), form="answers")
    assert [r["question_id"] for r in read(tmp_path / "b")] == [1, 2, 3, 4, 5]


def test_video_answers_are_the_lines_that_the_judge_reads(tmp_path):
    root = made_up(tmp_path, "msvd_qa")
    made = export(
        "msvd_qa",
        root,
        tmp_path / "out/merge.jsonl",
        run=a_run(root, "msvd_qa", tmp_path / "run"),
        form="answers",
    )
    assert read(Path(made["files"][0]))[0] == {
        "id": "v_a_1",
        "question": "what is he doing",
        "answer": "running",
        "pred": "Yes",
    }


def test_an_upload_is_written_from_a_run_and_from_an_answer_file(tmp_path, server):
    server(one_file)
    root = made_up(tmp_path / "eval", "gqa")
    run = a_run(root, "gqa", tmp_path / "run")
    export("gqa", root, tmp_path / "answers.jsonl", run=run, form="answers")
    found = export("gqa", root, tmp_path / "a.json", run=run)
    assert found == {**found, "n": 3, "missing": 0, "extra": 0, "duplicate": 0, "format": "upload"}
    export("gqa", root, tmp_path / "b.json", answers=tmp_path / "answers.jsonl")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == [
        ["201", "Yes"],
        ["202", "no"],
        ["203", "B"],
    ]
    assert "gqa" in with_upload()


def test_what_is_there_is_never_replaced(tmp_path, server):
    server(one_file)
    root = made_up(tmp_path / "eval", "gqa")
    run = a_run(root, "gqa", tmp_path / "run")
    out = tmp_path / "a.json"
    export("gqa", root, out, run=run)
    before = out.stat().st_ino
    export("gqa", root, out, run=run)  # the same again
    assert out.stat().st_ino == before
    out.write_text("mine")
    with pytest.raises(RequestError, match="holds something else"):
        export("gqa", root, out, run=run)
    assert out.read_text(encoding="utf-8") == "mine"
    with pytest.raises(RequestError, match="holds something else"):
        export("gqa", root, root, run=run)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "eval", "run"]


def a_sheet(root: Path, questions: Sequence[Question], replies: Mapping[str, str], out: Path) -> list[Path]:
    book = openpyxl.Workbook()
    book.properties.created = datetime.datetime(2020, 1, 1 + a_sheet.calls)
    a_sheet.calls += 1
    book.active.append([replies[q.id] for q in questions])
    book.save(out)
    return [out]


a_sheet.calls = 0


def test_a_spreadsheet_is_the_same_whenever_it_was_made(tmp_path, server):
    server(a_sheet)
    root = made_up(tmp_path / "eval", "gqa")
    run, out = a_run(root, "gqa", tmp_path / "run"), tmp_path / "a.xlsx"
    export("gqa", root, out, run=run)
    before = out.read_bytes()
    export("gqa", root, out, run=run)
    assert (a_sheet.calls, out.read_bytes()) == (2, before)
    server(lambda r, q, replies, place: a_sheet(r, q, dict.fromkeys(replies, "other"), place))
    with pytest.raises(RequestError, match="holds something else"):
        export("gqa", root, out, run=run)
    out.write_bytes(b"PK no sheet")
    with pytest.raises(RequestError, match="holds something else"):
        export("gqa", root, out, run=run)


def test_a_folder_is_placed_whole(tmp_path, server):
    server(two_files)
    root = made_up(tmp_path / "eval", "gqa")
    run = a_run(root, "gqa", tmp_path / "run")
    out = tmp_path / "new/upload"
    found = export("gqa", root, out, run=run)
    assert found["files"] == [str(out / "tasks/a.txt"), str(out / "b.txt")]
    assert (out / "tasks/a.txt").read_text(encoding="utf-8") == "Yes"
    export("gqa", root, out, run=run)
    (out / "stale.txt").write_text("of another run")
    with pytest.raises(RequestError, match="holds something else"):
        export("gqa", root, out, run=run)
    (tmp_path / "empty").mkdir()
    export("gqa", root, tmp_path / "empty", run=run)
    assert (tmp_path / "empty/b.txt").is_file()


def test_a_refused_upload_leaves_nothing(tmp_path, server):
    server(one_file)
    root = made_up(tmp_path / "eval", "gqa")
    run = a_run(root, "gqa", tmp_path / "run", lost=0)
    with pytest.raises(RequestError, match="the server refuses"):
        export("gqa", root, tmp_path / "new/a.json", run=run)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eval", "run"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    root = made_up(tmp_path / "eval", "gqa")
    run = a_run(root, "gqa", tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot write .*file/below"):
        export("gqa", root, tmp_path / "file/below", run=run, form="answers")


def test_requests_that_make_no_sense_are_refused(tmp_path, server):
    root = made_up(tmp_path / "eval", "gqa")
    made_up(root, "pope")
    run, out = a_run(root, "gqa", tmp_path / "run"), tmp_path / "out"
    with pytest.raises(RequestError, match="has no evaluation server") as fault:
        export("gqa", root, out, run=run)
    assert "--format answers" in fault.value.remedy
    with pytest.raises(RequestError, match="no format is called 'answer'"):
        export("gqa", root, out, run=run, form="answer")
    with pytest.raises(RequestError, match="--answers FILE or --run RUN"):
        export("gqa", root, out)
    with pytest.raises(RequestError, match="an answer file already"):
        export("gqa", root, out, answers=out, form="answers")
    with pytest.raises(RequestError, match="was asked no question of pope"):
        export("pope", root, out, run=run, form="answers")
    with pytest.raises(RequestError, match="no split 'val'"):
        export("gqa", root, out, answers=out, split="val")
    with pytest.raises(RequestError, match="not a run folder"):
        export("gqa", root, out, run=str(root))
    unfinished = evaluate_run(tmp_path / "unfinished", [], thumbs={}, commit=False)
    with pytest.raises(RequestError, match="not finished"):
        export("gqa", root, out, run=unfinished, form="answers")
    assert not out.exists()


def test_answers_to_questions_that_are_gone_are_counted(tmp_path):
    root = made_up(tmp_path / "eval", "gqa")
    questions = benchmarks.load("gqa").questions(root)
    gone = replace(questions[0], id="0" * 24)
    run = evaluate_run(tmp_path / "run", [prediction(q, "no") for q in (gone, *questions[1:])], thumbs={})
    found = export("gqa", root, tmp_path / "a.jsonl", run=run, form="answers")
    assert (found["n"], found["missing"], found["extra"]) == (2, 1, 1)
