"""Evaluations whose eval root is an s3:// address."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from raypipe import eval_mirror
from raypipe.errors import BudgetError, RequestError, ServiceError
from raypipe.evaluate.run import evaluate, in_process
from raypipe.media.source import MediaRoot
from raypipe.records import Outcome
from raypipe.store.files import Store
from tests.evaluate.test_run import predictions_in
from tests.support.eval_media import IMAGES, VIDEOS, asking, eval_root
from tests.support.eval_roots import made_up
from tests.support.s3 import put_tree


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAYPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(eval_mirror, "_mirrors", {})


@pytest.fixture
def local_root(tmp_path) -> Path:
    return eval_root(tmp_path / "eval")


@pytest.fixture
def downloads(monkeypatch) -> Counter[str]:
    """How often each medium was fetched."""
    counts: Counter[str] = Counter()
    real = MediaRoot._download

    def download(self, path, *rest):
        counts[path] += 1
        real(self, path, *rest)

    monkeypatch.setattr(MediaRoot, "_download", download)
    return counts


def test_the_same_predictions_and_each_medium_fetched_once(
    local_root, s3_root, tiny_folder, tmp_path, downloads
):
    put_tree(local_root, s3_root)
    here = asking(local_root, tiny_folder, tmp_path / "here")
    there = asking(local_root, tiny_folder, tmp_path / "there", eval_root=s3_root)
    assert evaluate(here, execute=in_process) == evaluate(there, execute=in_process)
    stores = Store(here.out), Store(there.out)
    names = stores[0].list("predictions")
    assert names == stores[1].list("predictions")
    assert all(stores[0].read(n) == stores[1].read(n) for n in names)
    media = {f"{VIDEOS}/a.mp4", f"{VIDEOS}/b.mp4", f"{IMAGES}/kite.jpg", f"{IMAGES}/cook.jpg"}
    assert downloads == dict.fromkeys(media, 1)
    evaluate(there, execute=in_process)
    assert sum(downloads.values()) == len(media)


def test_missing_and_damaged_media_are_named_as_on_disk(local_root, s3_root, tiny_folder, tmp_path):
    (local_root / VIDEOS / "a.mp4").unlink()
    (local_root / IMAGES / "kite.jpg").write_bytes(b"no image")
    put_tree(local_root, s3_root)
    said = []
    for root, out in ((str(local_root), "here"), (s3_root, "there")):
        settings = asking(local_root, tiny_folder, tmp_path / out, eval_root=root)
        with pytest.raises(BudgetError):
            evaluate(settings, execute=in_process)
        bad = [p for p in predictions_in(settings.out) if p.outcome is Outcome.MEDIUM_BAD]
        said.append(sorted((p.question_id, p.detail.partition(":")[0]) for p in bad))
    assert said[0] == said[1]
    assert len(said[0]) == 5


def test_a_repaired_medium_is_asked_about_again(local_root, s3_root, tiny_folder, tmp_path):
    good = (local_root / VIDEOS / "a.mp4").read_bytes()
    (local_root / VIDEOS / "a.mp4").unlink()
    store = put_tree(local_root, s3_root)
    settings = asking(local_root, tiny_folder, tmp_path / "run", eval_root=s3_root, coverage_floor=0.0)
    evaluate(settings, execute=in_process)
    assert Outcome.MEDIUM_BAD in {p.outcome for p in predictions_in(settings.out)}
    store.replace(f"{VIDEOS}/a.mp4", good)
    evaluate(settings, execute=in_process)
    assert Outcome.MEDIUM_BAD not in {p.outcome for p in predictions_in(settings.out)}


def test_a_storage_that_fails_ends_no_question(local_root, s3_root, tiny_folder, tmp_path, monkeypatch):
    put_tree(local_root, s3_root)
    settings = asking(local_root, tiny_folder, tmp_path / "run", eval_root=s3_root)
    real, fired = MediaRoot._download, []

    def refused(*_, **__):
        fired.append(True)
        raise ConnectionError("connection reset")

    def download(self, path, file, planned):
        with monkeypatch.context() as patch:
            if len(predictions_in(settings.out)) >= 3:
                patch.setattr(self._fs, "get_file", refused)
            real(self, path, file, planned)

    with monkeypatch.context() as patch:
        patch.setattr(MediaRoot, "_download", download)
        with pytest.raises(ServiceError, match=f"cannot read {s3_root}") as fault:
            evaluate(settings, execute=in_process)
    assert fired
    assert fault.value.exit_code == 5
    before = predictions_in(settings.out)
    assert 0 < len(before) < 8
    evaluate(settings, execute=in_process)
    after = predictions_in(settings.out)
    assert len(after) == 8
    assert Outcome.MEDIUM_BAD not in {p.outcome for p in after}
    assert {p.key for p in before} < {p.key for p in after}


def test_benchmarks_without_data_are_named_by_the_address(local_root, s3_root, tiny_folder, tmp_path):
    put_tree(local_root, s3_root)
    settings = asking(local_root, tiny_folder, tmp_path / "run", eval_root=s3_root, benchmarks="all")
    missing = evaluate(settings, execute=in_process)["missing_benchmarks"]
    assert missing["gqa"] == f"{s3_root}/gqa/llava_gqa_testdev_balanced.jsonl"
    named = settings.model_copy(update={"benchmarks": ["gqa"]})
    with pytest.raises(RequestError, match=f"gqa: no such file: {s3_root}/gqa/"):
        evaluate(named, execute=in_process)


def test_pictures_inside_a_table_are_evaluated(s3_root, tiny_folder, tmp_path):
    made_up(tmp_path / "eval", "mmbench:cn")
    shutil.rmtree(tmp_path / "eval/mmbench/images", ignore_errors=True)
    put_tree(tmp_path / "eval", s3_root)
    texts = []
    for root, out in ((str(tmp_path / "eval"), "here"), (s3_root, "there")):
        more = {
            "benchmarks": ["mmbench"],
            "splits": {"mmbench": "cn"},
            "eval_root": root,
            "coverage_floor": 0.0,
        }
        settings = asking(tmp_path / "eval", tiny_folder, tmp_path / out, **more)
        evaluate(settings, execute=in_process)
        texts.append({p.question_id: (p.outcome, p.text, p.detail) for p in predictions_in(settings.out)})
    assert texts[0] == texts[1] != {}
