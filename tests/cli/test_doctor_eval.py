"""The doctor on eval roots: what is missing is named with where it is had, and each folder is listed once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from raypipe import benchmark as benchmarks
from raypipe import cli
from raypipe.doctor.eval_root import check_eval_root
from raypipe.doctor.show import WIDTH, eval_text
from tests.support.eval_media import IMAGES, VIDEOS, eval_root
from tests.support.eval_roots import made_up, write_lines


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return eval_root(tmp_path_factory.mktemp("eval"))


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "eval"))


def doctor(capsys: pytest.CaptureFixture[str], root: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    code = cli.main(["doctor", "--eval-root", str(root), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] == (code == 0)
    text = eval_text(result)
    assert max(len(line) for line in text.splitlines()) <= max(
        WIDTH, len(str(root)) + 60
    )  # a path is not broken
    return code, result, {row["name"]: row for row in result["benchmarks"]}


def test_a_whole_tree_is_complete_and_the_rest_not_there(capsys, root):
    code, result, rows = doctor(capsys, root)
    assert code == 0
    assert set(rows) == set(benchmarks.names())
    assert {n for n, row in rows.items() if row["state"] == "complete"} == {"msvd_qa", "pope"}
    assert {row["state"] for n, row in rows.items() if n not in ("msvd_qa", "pope")} == {"not there"}
    assert (rows["pope"]["questions"], rows["pope"]["media"], rows["pope"]["missing"]) == (5, 2, 0)
    assert "2 of 2 benchmarks that are there are complete" in eval_text(result)
    assert all(row["source"] for row in rows.values())
    for row in rows.values():
        assert row["state"] == "complete" or row["files_missing"]


def test_missing_media_are_counted_and_the_first_are_named(capsys, root):
    (root / IMAGES / "kite.jpg").unlink()
    shutil.rmtree(root / VIDEOS)
    code, result, rows = doctor(capsys, root)
    assert code == 3
    assert (rows["pope"]["state"], rows["pope"]["missing"]) == ("incomplete", 1)
    assert rows["pope"]["examples"] == [f"{IMAGES}/kite.jpg"]
    assert (rows["msvd_qa"]["media"], rows["msvd_qa"]["missing"]) == (2, 2)
    text = eval_text(result)
    assert "1 of 2 media" in text
    assert f"{IMAGES}/kite.jpg" in text


def test_at_most_three_missing_media_are_named(tmp_path):
    made_up(tmp_path, "gqa")
    [row] = [r for r in check_eval_root(str(tmp_path), lambda _: None)["benchmarks"] if r["name"] == "gqa"]
    assert (row["media"], row["missing"], row["examples"]) == (
        2,
        2,
        ["gqa/data/images/n1.jpg", "gqa/data/images/n2.jpg"],
    )


def test_a_folder_or_a_broken_link_is_no_medium(capsys, root):
    for name, make in (("kite.jpg", lambda p: p.mkdir()), ("cook.jpg", lambda p: p.symlink_to("gone"))):
        (root / IMAGES / name).unlink()
        make(root / IMAGES / name)
    assert doctor(capsys, root)[2]["pope"]["missing"] == 2


def test_a_missing_annotation_file_is_named_with_where_it_is_had(capsys, root):
    (root / "pope/coco/coco_pope_random.json").unlink()
    code, result, rows = doctor(capsys, root)
    assert code == 3
    assert rows["pope"]["files_missing"] == ["pope/coco/coco_pope_random.json"]
    text = eval_text(result)
    assert "missing  pope/coco/coco_pope_random.json" in text
    assert "fetch    " in text


def test_questions_that_do_not_read_are_an_error_with_file_and_line(capsys, root):
    path = root / "pope/llava_pope_test.jsonl"
    path.write_text(path.read_text() + '{"question_id": NaN}\n')
    code, _, rows = doctor(capsys, root)
    assert code == 3
    assert rows["pope"]["note"] == f"{path}, line 6: NaN is not a JSON value"
    assert rows["msvd_qa"]["state"] == "complete"


def test_todays_pope_labels_are_told_with_the_commit_to_take(capsys, root):
    path = root / "pope/coco/coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(
        path, [*rows, {"question_id": 99, "image": "new.jpg", "text": "Is there a cup in it?", "label": "no"}]
    )
    code, result, found = doctor(capsys, root)
    assert code == 3
    assert "e3e39262" in found["pope"]["remedy"]
    assert "e3e39262" in eval_text(result)


def test_a_fault_of_one_benchmark_does_not_hide_the_others(capsys, root, monkeypatch):
    def broken(_: Path) -> None:
        raise KeyError("a fault of our own")

    monkeypatch.setattr("raypipe.benchmarks.pope.BENCHMARK", _replaced("pope", read=broken))
    code, _, rows = doctor(capsys, root)
    assert code == 3
    assert rows["pope"]["note"] == "KeyError: 'a fault of our own'"
    assert rows["msvd_qa"]["state"] == "complete"


def test_splits_that_are_there_are_told_apart(capsys, root, monkeypatch):
    import raypipe.benchmarks.pope as pope

    default, late = _replaced("pope", split="a"), _replaced("pope", split="b", files=("pope/late.jsonl",))
    gone = _replaced("pope", split="c", files=("pope/gone.jsonl",))
    monkeypatch.setattr(pope, "BENCHMARK", default)
    monkeypatch.setattr(pope, "BY_SPLIT", {"a": default, "b": late, "c": gone}, raising=False)
    (root / "pope/late.jsonl").write_text("")
    _, result, _ = doctor(capsys, root)
    assert [r["split"] for r in result["benchmarks"] if r["name"] == "pope"] == ["a", "b"]
    assert "  pope b " in eval_text(result)


def test_each_folder_is_listed_once(root, monkeypatch):
    listed: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda p: listed.append(str(p)) or real(p))
    check_eval_root(str(root), lambda _: None)
    assert sorted(p for p in listed if str(root) in p) == sorted([str(root / IMAGES), str(root / VIDEOS)])


def test_a_root_without_any_benchmark_fails_as_evaluate_refuses_it(capsys, tmp_path):
    code, result, rows = doctor(capsys, tmp_path)
    assert code == 3
    assert {row["state"] for row in rows.values()} == {"not there"}
    assert f"no benchmark has its data below {tmp_path}\n  docs/from_video_llava.md" in eval_text(result)


def test_no_such_eval_root_is_a_wrong_request(capsys, tmp_path):
    assert cli.main(["doctor", "--eval-root", str(tmp_path / "none")]) == 2
    assert "no such eval root" in capsys.readouterr().err


def test_the_text_is_what_a_person_reads(capsys, root):
    assert cli.main(["doctor", "--eval-root", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"eval root {root}")
    assert out.rstrip().splitlines()[-1].startswith(("not there: ", " "))


def _replaced(name: str, **changes: Any) -> benchmarks.Benchmark:
    from dataclasses import replace

    return replace(benchmarks.load(name), **changes)
