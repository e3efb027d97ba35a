"""Eval roots on object storage: the same questions as from a local tree, and only what is read is fetched."""

import json
import os
import shutil
from pathlib import Path

import pytest

from raypipe import benchmark as benchmarks
from raypipe import eval_mirror
from raypipe.cli import main
from raypipe.errors import RequestError
from raypipe.eval_mirror import EvalMirror, eval_tree
from raypipe.store.files import Store
from tests.support.eval_media import IMAGES, VIDEOS, eval_root
from tests.support.eval_roots import CASES, made_up, write_lines
from tests.support.s3 import put_tree


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAYPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(eval_mirror, "_mirrors", {})
    return tmp_path / "cache"


def questions(name: str, root: str) -> list:
    chosen = benchmarks.load(*name.split(":"))
    with eval_tree(root, [chosen.folder]) as tree:
        return chosen.questions(tree)


@pytest.mark.parametrize("name", CASES)
def test_every_benchmark_reads_the_same_questions(name, tmp_path, s3_root):
    made_up(tmp_path / "eval", name)
    put_tree(tmp_path / "eval", s3_root)
    assert questions(name, s3_root) == questions(name, str(tmp_path / "eval"))


def test_media_are_there_by_name_and_are_never_fetched(tmp_path, s3_root, fetches):
    eval_root(tmp_path / "eval")
    put_tree(tmp_path / "eval", s3_root)
    asked = questions("msvd_qa", s3_root)
    assert {Path(q.medium.path).suffix for q in asked} == {".mp4"}
    assert sorted(Path(n).name for n in fetches) == ["test_a.json", "test_q.json"]
    tree = EvalMirror(s3_root).path
    for video in (VIDEOS + "/a.mp4", VIDEOS + "/b.mp4"):
        assert (tree / video).stat().st_size == (tmp_path / "eval" / video).stat().st_size
        assert (tree / video).stat().st_blocks == 0


def test_a_second_look_fetches_only_what_has_changed(tmp_path, s3_root, fetches):
    eval_root(tmp_path / "eval")
    store = put_tree(tmp_path / "eval", s3_root)
    first = questions("pope", s3_root)
    assert len(fetches) == 4
    assert questions("pope", s3_root) == first
    assert len(fetches) == 4
    name = "pope/llava_pope_test.jsonl"
    lines = (tmp_path / "eval" / name).read_text().splitlines(keepends=True)
    store.replace(name, "".join(reversed(lines)).encode())  # the same size
    assert questions("pope", s3_root) != first
    assert fetches[4:] == [name]
    store.delete(name)
    with pytest.raises(RequestError, match=r"no such file: s3://.*llava_pope_test\.jsonl"):
        questions("pope", s3_root)


def test_a_record_that_is_lost_makes_the_folder_new(tmp_path, s3_root, fetches, cache):
    eval_root(tmp_path / "eval")
    store = put_tree(tmp_path / "eval", s3_root)
    questions("pope", s3_root)
    for record in cache.glob("eval/*/*.json"):
        record.write_text("{")
    store.delete("pope/val2014/kite.jpg")
    questions("pope", s3_root)
    assert len(fetches) == 8
    assert not (EvalMirror(s3_root).path / IMAGES / "kite.jpg").exists()


def test_small_files_of_a_folder_come_together(tmp_path, s3_root, fetches, monkeypatch):
    made_up(tmp_path / "eval", "mme")
    put_tree(tmp_path / "eval", s3_root)
    calls = []
    real = EvalMirror._beside
    monkeypatch.setattr(EvalMirror, "_beside", lambda self, name: calls.append(name) or real(self, name))
    questions("mme", s3_root)
    texts = [n for n in fetches if n.endswith(".txt")]
    assert len(texts) == len(set(texts)) > 1
    assert len([c for c in calls if c.suffix == ".txt"]) == len(
        {c.parent for c in calls if c.suffix == ".txt"}
    )


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, s3_root, monkeypatch):
    eval_root(tmp_path / "eval")
    store = put_tree(tmp_path / "eval", s3_root)
    real, name = Store.fetch, "pope/llava_pope_test.jsonl"

    def fetch(self, asked, target):
        real(self, asked, target)
        if asked == name:
            store.replace(name, b"{}\n")

    monkeypatch.setattr(Store, "fetch", fetch)
    with pytest.raises(RequestError, match=r"llava_pope_test\.jsonl has changed while it was read"):
        questions("pope", s3_root)
    monkeypatch.undo()
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.parametrize("after", range(0, 14, 3))
def test_a_listing_that_is_killed_is_done_again(tmp_path, s3_root, monkeypatch, after):
    eval_root(tmp_path / "eval")
    store = put_tree(tmp_path / "eval", s3_root)
    questions("pope", s3_root)
    for name in store.list("pope"):  # every object is another one now, of another size
        store.replace(name, store.read(name) + b"\n")
    calls: list[Path] = []
    steps = {name: getattr(eval_mirror.os, name) for name in ("unlink", "open", "replace")}

    def step(name):
        def act(*args, **more):
            if "tree" in str(args[0]) or name == "replace":
                calls.append(args[0])
                if len(calls) == after + 1:
                    raise KeyboardInterrupt
            return steps[name](*args, **more)

        return act

    with monkeypatch.context() as patch:
        for name in steps:
            patch.setattr(eval_mirror.os, name, step(name))
        with pytest.raises(KeyboardInterrupt):
            questions("pope", s3_root)
    assert len(calls) == after + 1
    monkeypatch.setattr(eval_mirror, "_mirrors", {})
    with eval_tree(s3_root, ["pope"]) as tree:
        states = store.states("pope")
        assert {n: (tree / n).stat().st_size for n in states} == {n: s.size for n, s in states.items()}
        assert len(benchmarks.load("pope").questions(tree)) == 5
        assert not list(tree.rglob("*.tmp"))


def test_names_that_are_no_paths_do_no_harm(tmp_path, s3_root):
    eval_root(tmp_path / "eval")
    store = put_tree(tmp_path / "eval", s3_root)
    store._files.replace(f"{s3_root}/pope/../../escaped", b"x")
    store.replace("pope/" + "n" * 300, b"x")
    store.replace("pope/val2014", b"a file where a folder is")
    assert questions("pope", s3_root) == questions("pope", str(tmp_path / "eval"))
    assert not list(tmp_path.rglob("escaped"))


def test_no_root_and_no_bucket_are_named(s3_root):
    with pytest.raises(RequestError, match=f"no such eval root: {s3_root}/none"):
        questions("pope", f"{s3_root}/none")


def test_the_doctor_says_the_same_of_both(tmp_path, s3_root, capsys):
    eval_root(tmp_path / "eval")
    (tmp_path / "eval" / IMAGES / "kite.jpg").unlink()
    put_tree(tmp_path / "eval", s3_root)
    said = []
    for root in (str(tmp_path / "eval"), s3_root):
        assert main(["doctor", "--eval-root", root, "--json"]) == 3
        said.append(json.loads(capsys.readouterr().out))
    assert said[0].pop("eval_root") == str(tmp_path / "eval")
    assert said[1].pop("eval_root") == s3_root
    assert said[0] == said[1]
    assert [b["missing"] for b in said[0]["benchmarks"] if b["name"] == "pope"] == [1]


def test_answers_are_scored_and_exported_from_both(tmp_path, s3_root, capsys):
    made_up(tmp_path / "eval", "mme")
    put_tree(tmp_path / "eval", s3_root)
    asked = questions("mme", s3_root)
    rows = [{"question_id": q.row_id, "prompt": q.prompt, "text": "yes"} for q in asked]
    answers = tmp_path / "answers.jsonl"
    write_lines(answers, rows)
    said = []
    for number, root in enumerate((str(tmp_path / "eval"), s3_root)):
        common = ["mme", "--eval-root", root, "--answers", str(answers)]
        assert main(["score", *common, "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
        assert main(["export", *common, "--out", str(tmp_path / f"out{number}")]) == 0
        capsys.readouterr()
    assert said[0] == said[1]
    made = [
        [(p.name, p.read_bytes()) for p in sorted((tmp_path / o).rglob("*.txt"))] for o in ("out0", "out1")
    ]
    assert made[0] == made[1] != []


def test_pictures_inside_a_table_are_put_where_the_root_is(tmp_path, s3_root, capsys):
    made_up(tmp_path / "eval", "mmbench:cn")
    shutil.rmtree(tmp_path / "eval/mmbench/images", ignore_errors=True)
    store = put_tree(tmp_path / "eval", s3_root)
    before = set(store.list())
    assert main(["unpack", "mmbench", "split=cn", "--eval-root", s3_root, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    made = set(store.list()) - before
    assert written == len(made) > 0
    assert main(["unpack", "mmbench", "split=cn", "--eval-root", str(tmp_path / "eval")]) == 0
    for name in made:
        assert store.read(name) == (tmp_path / "eval" / name).read_bytes()
    capsys.readouterr()
    assert main(["unpack", "mmbench", "split=cn", "--eval-root", s3_root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 0


def test_a_tree_of_this_machine_is_taken_as_it_is(tmp_path, cache):
    eval_root(tmp_path / "eval")
    with eval_tree(str(tmp_path / "eval"), ["pope"]) as tree:
        assert tree == tmp_path / "eval"
    assert not cache.exists()
    assert os.stat(tree / "pope/llava_pope_test.jsonl").st_mode & 0o444
