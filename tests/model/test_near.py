"""Models at s3:// addresses: fetched once a machine, whole, bounded, and the same model as on disk."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.errors import DamageError, RequestError, ServiceError
from raypipe.model import near
from raypipe.model.build import folder_of, load_model
from raypipe.model.describe import weights_fingerprint
from raypipe.model.near import near_model
from raypipe.settings import EvaluateSettings
from raypipe.store.files import Store
from raypipe.store.run import Manifest, Run
from tests.support.s3 import put_tree

ASK = """
import sys
from raypipe.store.files import Store
real = Store.fetch
def fetch(self, name, target):
    with open(sys.argv[2], "a") as log:
        log.write(name + "\\n")
    real(self, name, target)
Store.fetch = fetch
from raypipe.model.near import near_model
print(near_model(sys.argv[1]), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RAYPIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(near, "_in_use", {})
    return tmp_path / "cache/models"


def small(address: str, text: str = "{}") -> str:
    """Something that counts as a model, of a few bytes."""
    store = Store(address)
    store.replace("config.json", text.encode())
    store.replace("model.safetensors", b"w" * 1000)
    return address


def folders(cache: Path) -> set[str]:
    return {p.name for p in cache.iterdir() if p.is_dir()}


def forget(monkeypatch) -> None:
    """As if the processes that used models had ended."""
    for handle in near._in_use.values():
        os.close(handle)
    monkeypatch.setattr(near, "_in_use", {})


def ask(address: str, log: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", ASK, address, str(log)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_same_model_as_on_disk_fetched_once(tiny_folder, s3_root, fetches):
    store = put_tree(tiny_folder, s3_root)
    store.replace("checkpoint-100/optimizer.pt", b"large")
    store.replace("global_step5/states.pt", b"large")
    assert weights_fingerprint(s3_root, None) == weights_fingerprint(str(tiny_folder), None)
    loaded = load_model(s3_root)
    assert loaded.card == load_model(str(tiny_folder)).card
    assert sorted(fetches) == sorted(p.name for p in tiny_folder.iterdir())
    assert folder_of(str(tiny_folder)) == tiny_folder  # a folder that is here is used as it is


def test_processes_that_ask_at_once_fetch_once(s3_root, tmp_path):
    small(s3_root)
    asked = [ask(s3_root, tmp_path / "log") for _ in range(4)]
    said = [process.stdout.readline().strip() for process in asked]
    for process in asked:
        process.communicate("\n", timeout=60)
    assert len(set(said)) == 1
    assert sorted((tmp_path / "log").read_text().split()) == ["config.json", "model.safetensors"]
    assert (Path(said[0]) / "config.json").read_text() == "{}"


def test_another_model_at_the_address_is_another_folder(s3_root, fetches):
    first = near_model(small(s3_root))
    second = near_model(small(s3_root, "[]"))
    assert first != second
    assert [(f / "config.json").read_text() for f in (first, second)] == ["{}", "[]"]


def test_a_folder_that_was_touched_is_fetched_again(s3_root, fetches):
    folder = near_model(small(s3_root))
    (folder / "config.json").write_text("[]")
    assert (near_model(s3_root) / "config.json").read_text() == "{}"
    (folder / "model.safetensors").unlink()
    assert (near_model(s3_root) / "model.safetensors").stat().st_size == 1000
    assert len(fetches) == 6


def test_what_a_dead_process_left_is_no_model(s3_root, cache, monkeypatch, fetches):
    real = near._fetch_file

    def dies(remote, part, name):
        real(remote, part, name)
        raise KeyboardInterrupt

    monkeypatch.setattr(near, "_fetch_file", dies)
    monkeypatch.setattr(near.shutil, "rmtree", lambda *_, **__: None)  # a killed process removes nothing
    with pytest.raises(KeyboardInterrupt):
        near_model(small(s3_root))
    monkeypatch.undo()
    monkeypatch.setenv("RAYPIPE_CACHE", str(cache.parent))
    assert [n for n in folders(cache) if n.endswith(".part")]
    assert (near_model(s3_root) / "config.json").read_text() == "{}"
    assert not [n for n in folders(cache) if n.endswith(".part")]


def test_the_longest_unused_goes_when_there_is_no_room(s3_root, cache, monkeypatch):
    monkeypatch.setattr(near, "node_limit", lambda: 2500)  # two models
    names = []
    for n in range(2):
        names.append(near_model(small(f"{s3_root}/m{n}")).name)
        os.utime(cache / f"{names[-1]}.json", (n, n))
    forget(monkeypatch)
    near_model(f"{s3_root}/m0")
    os.utime(cache / f"{names[0]}.json", (5, 5))
    forget(monkeypatch)
    names.append(near_model(small(f"{s3_root}/m2")).name)
    assert folders(cache) == {names[0], names[2]}


def test_a_model_in_use_stays_and_the_next_is_refused(s3_root, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(near, "node_limit", lambda: 1500)  # one model
    user = ask(small(f"{s3_root}/m0"), tmp_path / "log")
    folder = Path(user.stdout.readline().strip())
    with pytest.raises(ServiceError, match="are in use") as fault:
        near_model(small(f"{s3_root}/m1"))
    assert "RAYPIPE_CACHE_GIB" in fault.value.remedy
    assert folder.is_dir()
    user.communicate("\n", timeout=60)
    assert near_model(f"{s3_root}/m1").is_dir()
    assert not folder.exists()


def finished_run(address: str) -> Store:
    """A finished training run with a model of a few bytes."""
    settings = EvaluateSettings(model="m", eval_root="e", out=address)  # any: they are not looked at
    run = Run.start(address, "train", settings)
    small(f"{address}/model")
    run.store.replace("checkpoints/step-1/states.safetensors", b"x" * 100)
    files = [run.entry(f"model/{n}", 0) for n in ("config.json", "model.safetensors")]
    run.commit(Manifest("train", files, {"inputs": 0, "ok": 0, "quarantined": 0}))
    return run.store


def test_of_a_training_run_its_model_alone_is_fetched(s3_root, fetches):
    store = finished_run(s3_root)
    folder = near_model(s3_root)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(fetches) == ["model/config.json", "model/model.safetensors"]
    store.delete("commit.json")
    with pytest.raises(RequestError, match="not finished"):
        near_model(s3_root)


def test_a_model_that_is_not_what_was_committed_is_refused(s3_root, cache):
    store = finished_run(s3_root)
    store.replace("model/model.safetensors", b"W" * 1000)
    with pytest.raises(DamageError, match="not what was committed"):
        near_model(s3_root)
    assert folders(cache) == set()


def test_no_model_is_named_by_its_address(s3_root, cache):
    for address in (s3_root, f"{s3_root}/none"):
        with pytest.raises(RequestError, match=f"no model at {address}: nothing is there"):
            folder_of(address)
    Store(s3_root).replace("readme.txt", b"x")
    with pytest.raises(RequestError, match="neither"):
        folder_of(s3_root)
    assert not cache.exists()


def test_an_evaluation_of_a_model_at_an_address(tiny_folder, s3_root, tmp_path, fetches):
    from raypipe.evaluate.run import evaluate, in_process
    from tests.support.eval_media import asking, eval_root

    root = eval_root(tmp_path / "eval")
    put_tree(tiny_folder, s3_root)
    here = asking(root, tiny_folder, tmp_path / "here")
    there = asking(root, s3_root, tmp_path / "there")
    assert evaluate(here, execute=in_process) == evaluate(there, execute=in_process)
    names = Store(here.out).list("predictions")
    assert names == Store(there.out).list("predictions")
    assert len(fetches) == len(list(tiny_folder.iterdir()))
    shutil.rmtree(tmp_path / "cache")
    assert json.loads((tmp_path / "there/settings.json").read_text())["settings"]["model"] == s3_root
